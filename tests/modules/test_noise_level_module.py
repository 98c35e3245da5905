"""The regressor of the noise level: what it is shown, and what it learns."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule, centred
from tag_lightning.modules import NoiseLevelModule
from tag_lightning.networks import NoiseLevelCNN
from tag_lightning.pretrained import load_pretrained

SCHEDULE = LinearSchedule(20, 0.05, 0.5)


def module(network: nn.Module | None = None, **settings: float) -> NoiseLevelModule:
    network = network or NoiseLevelCNN(1, 20, widths=(4, 4))
    return NoiseLevelModule(network, SCHEDULE, **settings)  # type: ignore[arg-type]


def test_signal_and_noise_vary_independently() -> None:
    trained = module(min_ratio=0.5, max_ratio=2.0)
    x0 = torch.full((4000, 1, 4, 4), 0.7, dtype=torch.float64)
    x, timesteps, log_ratio = trained.disturbed(x0, torch.Generator().manual_seed(0))
    power = SCHEDULE.alphas_cumprod[timesteps][:, None]
    noise = (x.flatten(1) - 0.7 * power.sqrt()) / (1 - power).sqrt() / log_ratio.exp()[:, None]
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert set(timesteps.tolist()) == set(range(20))
    assert -math.log(2) <= log_ratio.min() < -0.69
    assert 0.69 < log_ratio.max() <= math.log(2)
    assert float(log_ratio.var()) == pytest.approx((2 * math.log(2)) ** 2 / 12, rel=0.05)  # uniform
    assert abs(float(torch.corrcoef(torch.stack((log_ratio, timesteps.double())))[0, 1])) < 0.05


def test_the_noise_of_point_clouds_stays_in_their_space() -> None:
    mask = torch.tensor([[True, True, True, False]]).expand(8, -1)
    x0 = centred(torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(1)), mask)
    x, _, _ = module().disturbed(x0, torch.Generator().manual_seed(0), mask)
    torch.testing.assert_close(x, centred(x, mask))
    assert x[:, 3].abs().max() == 0


class Knowing(nn.Module):
    """Knows the data, which are zero, and so reads the ratio from the length of the sample."""

    num_timesteps = 20

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        noise = (1 - SCHEDULE.alphas_cumprod[timesteps]).to(x)
        return 0.5 * (x.flatten(1).square().mean(1) / noise).log()


def test_the_loss_of_whoever_knows_the_data_is_what_the_coordinates_allow() -> None:
    """``1 / (2 d)``, the mean squared error of ``log r`` from d Gaussian coordinates."""
    trained = module(Knowing(), noise_draws=8)
    trained.eval()
    trained.evaluate(SimpleNamespace(x=torch.zeros(256, 1, 8, 8), inputs={}), 0)
    assert float(trained.mean_loss.compute()) == pytest.approx(1 / 128, rel=0.1)


def test_a_few_steps_of_training_learn_something() -> None:
    torch.manual_seed(0)
    trained = module()
    optimizer, batch = torch.optim.Adam(trained.network.parameters(), lr=1e-2), torch.zeros(64, 1, 8, 8)
    losses = []
    for k in range(60):
        x, timesteps, log_ratio = trained.disturbed(batch, torch.Generator().manual_seed(k))
        loss = (trained.network(x, timesteps) - log_ratio).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


def test_the_answer_for_a_sample_does_not_depend_on_its_batch() -> None:
    network, x = NoiseLevelCNN(1, 20, widths=(4, 4)).eval(), torch.randn(5, 1, 8, 8)
    timesteps = torch.arange(5)
    torch.testing.assert_close(network(x, timesteps)[:2], network(x[:2], timesteps[:2]))


@pytest.mark.parametrize("timestep", [39, 279, 759])
@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.3])
def test_the_shipped_regressor_is_right_on_and_off_the_marginals(timestep: int, ratio: float) -> None:
    """768 coordinates allow 2.6 %, and nothing of the data is known exactly."""
    network, schedule, *_ = load_pretrained("digits/noise_level")
    assert schedule is not None
    table = DigitsDataModule().table("val")
    x0 = table[list(range(0, len(table), 12))].x
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(timestep))
    x = schedule.add_noise(x0, ratio * noise, timestep)
    with torch.no_grad():
        error = network(x, torch.full((len(x),), timestep)) - math.log(ratio)
    assert abs(float(error.mean())) < 0.015
    assert float(error.std()) < 0.05


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: module(min_ratio=2.0, max_ratio=1.0), "0 < min < max, got 2.0 and 1.0"),
        (lambda: module(noise_draws=0), "noise_draws must be at least 1, got 0"),
        (lambda: module(NoiseLevelCNN(1, 30, widths=(4,))), "the network knows 30 timesteps but the schedule has 20"),
        (lambda: NoiseLevelCNN(num_timesteps=1), "num_timesteps must be at least 2, got 1"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()
