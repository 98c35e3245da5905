"""benchmarks.visible_noise: the exact posterior over timesteps, and what it tells by dimension."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks.visible_noise import log_posterior, main, measured
from tag_lightning.diffusion import LinearSchedule

ALPHAS_CUMPROD = LinearSchedule(20, 1e-4, 0.3).alphas_cumprod.double()


def test_the_posterior_is_that_of_the_densities_of_noisy_samples() -> None:
    """Sixteen dimensions, two with data of unit variance, by torch's own Gaussian densities."""
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).double()
    densities = []
    for a in ALPHAS_CUMPROD.tolist():
        variances = torch.tensor([a + (1 - a)] * 2 + [1 - a] * 14, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=torch.float64), torch.diag(variances))
        densities.append(normal.log_prob(x))
    expected = torch.stack(densities, 1).log_softmax(1)
    inside, outside = x[:, :2].square().sum(1), x[:, 2:].square().sum(1)
    torch.testing.assert_close(log_posterior(inside, outside, 16, ALPHAS_CUMPROD), expected)


@pytest.mark.parametrize("dimension", [512, 2048])
def test_the_error_near_the_data_is_that_of_the_dimensions_without_data(dimension: int) -> None:
    figures = measured(dimension, [100], 2000)
    assert figures["bound"] == 1 / math.sqrt(2 * dimension * 7 / 8)
    assert figures["t = 100"] == pytest.approx(figures["bound"], rel=0.06)


def test_more_dimensions_tell_more(tmp_path: Path) -> None:
    main(["--dimensions", "8", "512", "--count", "100", "--timesteps", "100", "--out", str(tmp_path)])
    few, many = json.loads((tmp_path / "visible_noise.json").read_text()).values()
    assert many["time_gap"] < few["time_gap"]
    assert many["t = 100"] < few["t = 100"]
    assert (tmp_path / "visible_noise.png").is_file()


def test_fewer_dimensions_than_one_of_the_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--dimensions", "4"])
    assert "--dimensions must be at least 8, got 4" in capsys.readouterr().err
