from pathlib import Path

import pytest
import torch
from gaussian_mixture import ExactDenoiser, GaussianMixture
from problems import TOY, random_vectors, toy_schedule

from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import MixtureDenoiser


def test_its_defaults_are_the_exact_denoiser_of_the_toy_experiment() -> None:
    x, timesteps = random_vectors(100, 2, scale=10), torch.arange(100)
    expected = ExactDenoiser(TOY, toy_schedule())(x, timesteps)
    torch.testing.assert_close(MixtureDenoiser()(x, timesteps), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_mixture_of_unit_gaussians_is_exact(dtype: torch.dtype) -> None:
    means = ((1.0, 0.0, 2.0), (-1.0, 3.0, 0.0), (0.0, 0.0, 0.5))
    network = MixtureDenoiser(means, 50, 1e-3, 0.2)
    x, timesteps = random_vectors(50, 3, scale=2).to(dtype), torch.arange(50)
    exact = ExactDenoiser(GaussianMixture([1] * 3, means, [1] * 3), LinearSchedule(50, 1e-3, 0.2))(x, timesteps)
    assert exact.dtype == network(x, timesteps).dtype == dtype
    torch.testing.assert_close(network(x, timesteps), exact)


def test_saving_and_loading_changes_nothing(tmp_path: Path) -> None:
    network = MixtureDenoiser(((1.0, 0.0), (0.0, 2.0)), 20)
    network.save_pretrained(tmp_path)
    loaded = MixtureDenoiser.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    x, timesteps = random_vectors(20, 2), torch.arange(20)
    assert torch.equal(loaded(x, timesteps), network(x, timesteps))
