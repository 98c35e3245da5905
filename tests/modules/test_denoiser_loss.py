"""The loss of a denoiser, on networks with a known error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.datamodules import Batch
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import DiffusionModule

# Modules called by hand have nowhere to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

COUNT, TIMESTEPS = 200, 50
CLEAN = torch.tensor([0.3, -0.7, 0.5, 0.9], dtype=torch.float64)


class KnowingNetwork(nn.Module):
    """Knows that every clean sample is ``CLEAN``, and so the noise in what it is given.

    Args:
        answer: Of the true noise ``[B, 4]``.
        read: The timestep it believes in, of the one that it is told ``[B]``.
    """

    def __init__(self, answer: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.read = read
        self.powers = LinearSchedule(TIMESTEPS).alphas_cumprod.double()
        self.told: list[int] = []

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        self.told += timesteps.tolist()
        power = self.powers[self.read(timesteps)][:, None]
        return self.answer((x - power.sqrt() * CLEAN) / (1 - power).sqrt())


def same(values: Tensor) -> Tensor:
    return values


def losses(
    answer: Callable[[Tensor], Tensor] = same, read: Callable[[Tensor], Tensor] = same
) -> tuple[float, float, list[int]]:
    """What training and validation make of such a network, and the timesteps that it was told."""
    network = KnowingNetwork(answer, read)
    module = DiffusionModule(network, LinearSchedule(TIMESTEPS))
    batch = Batch(CLEAN.repeat(COUNT, 1), {}, {})
    module.train()
    trained = float(module.training_step(batch, 0))
    module.eval()
    module.evaluate(batch, 0)
    return trained, float(module.mean_loss.compute()), network.told


def test_the_true_noise_at_the_true_timestep_costs_nothing() -> None:
    trained, validated, told = losses()
    assert trained < 1e-8
    assert validated < 1e-8
    assert set(told) == set(range(TIMESTEPS))


@pytest.mark.parametrize(("factor", "cost"), [(-1.0, 4.0), (0.0, 1.0), (2.0, 1.0)])
def test_a_multiple_of_the_noise_costs_the_square_of_what_is_missing(factor: float, cost: float) -> None:
    trained, validated, _ = losses(answer=lambda noise: factor * noise)
    # 800 squares of normal numbers: a standard error of 5 %.
    assert trained == pytest.approx(cost, rel=0.2)
    assert validated == pytest.approx(cost, rel=0.2)


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_noise_of_the_neighbouring_timestep_costs_something(shift: int) -> None:
    """So that the first test would notice a network told another timestep than that of its sample."""
    trained, validated, _ = losses(read=lambda timesteps: (timesteps + shift).clamp(0, TIMESTEPS - 1))
    assert trained > 1e-4
    assert validated > 1e-4
