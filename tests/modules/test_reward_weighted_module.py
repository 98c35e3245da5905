"""Reward-weighted tuning: the weights, the loss with them, and the denoiser that it makes the best one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from gaussian_mixture import ExactDenoiser, GaussianMixture
from lightning import Trainer
from tiny_runs import UNET, seeded
from torch import Tensor, nn

from tag_lightning.datamodules import Batch, DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import DiffusionModule, RewardWeightedModule
from tag_lightning.networks import Ink

# Modules called by hand have nowhere to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

SCHEDULE = LinearSchedule(50)


class First(nn.Module):
    """The first coordinate of a sample, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x.flatten(1)[:, 0]


class Shifted(nn.Module):
    """A network whose answer is that of another plus one number, which starts at 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.shift = network, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.network(x, timesteps) + self.shift


class Table:
    """A training split of these samples."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, indices: list[int]) -> Batch:
        return Batch(self.x[indices], {}, {})


def unet() -> UNet2DModel:
    return seeded(lambda: UNet2DModel(**UNET), 0)  # type: ignore[return-value]


def measured(module: RewardWeightedModule, x: Tensor) -> RewardWeightedModule:
    module._measure(Table(x))
    return module


def loss_of(module: DiffusionModule, x: Tensor) -> Tensor:
    return module.train().training_step(Batch(x, {}, {}), 0)


def test_a_constant_reward_weights_nothing() -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    tuned = measured(RewardWeightedModule(unet(), First(0.0), 0.1, schedule=SCHEDULE), x)
    torch.testing.assert_close(loss_of(tuned, x), loss_of(DiffusionModule(unet(), SCHEDULE), x))


def test_the_loss_is_that_of_every_sample_times_its_weight() -> None:
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    tuned, plain = (
        measured(RewardWeightedModule(unet(), First(), 0.5, schedule=SCHEDULE), x),
        DiffusionModule(unet(), schedule=SCHEDULE),
    )
    weights = (x[:, 0, 0, 0] / 0.5).exp()
    weights /= weights.mean()
    torch.testing.assert_close(tuned.sample_weights(Batch(x, {}, {})), weights)
    errors = torch.zeros(6)

    def each(batch: Any) -> Tensor:  # picks one sample's error out of the mean over all
        return chosen

    plain.sample_weights = each  # type: ignore[method-assign]
    for i in range(6):
        chosen = torch.zeros(6)
        chosen[i] = 6.0
        errors[i] = loss_of(plain, x).detach()
    torch.testing.assert_close(loss_of(tuned, x).detach(), (weights * errors).mean())


def test_the_tilted_denoiser_is_the_minimum_of_the_loss() -> None:
    """Gaussian data and a linear reward: ``N(m, v)`` tilted by ``x / temperature`` is ``N(m + v / temperature, v)``."""
    mean, variance, temperature = -0.3, 0.5, 0.7
    quantiles = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = (mean + math.sqrt(variance) * torch.special.ndtri(quantiles))[:, None]
    gradients = {}
    for name, centre in {"tilted": mean + variance / temperature, "base": mean}.items():
        network = Shifted(ExactDenoiser(GaussianMixture([1], [[centre]], [variance]), SCHEDULE))
        module = measured(RewardWeightedModule(network, First().double(), temperature, schedule=SCHEDULE), x)
        loss_of(module, x).backward()
        gradients[name] = abs(float(network.shift.grad))
    assert gradients["tilted"] < 0.04  # a standard error is 0.01
    assert gradients["base"] > 0.2
    assert module.mean_reward == pytest.approx(mean, abs=1e-3)
    assert module.tuned_reward == pytest.approx(mean + variance / temperature, abs=5e-3)
    assert module.effective_share == pytest.approx(math.exp(-variance / temperature**2), abs=0.01)


def test_weights_stay_finite_at_a_low_temperature() -> None:
    x = torch.linspace(0, 100, 50)[:, None]
    module = measured(RewardWeightedModule(nn.Identity(), First(), 1e-2, schedule=SCHEDULE), x)
    weights = module.sample_weights(Batch(x, {}, {}))
    assert weights.isfinite().all()
    assert module.effective_share == pytest.approx(1 / 50)
    assert module.tuned_reward == pytest.approx(100)


def test_training_measures_the_training_split_and_leaves_the_reward(tmp_path: Path) -> None:
    module = RewardWeightedModule(unet(), Ink(), 0.04, schedule=SCHEDULE)
    data = DigitsDataModule(size=8, batch_size=8)
    silent = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(accelerator="cpu", max_steps=1, limit_val_batches=1, default_root_dir=tmp_path, **silent)
    trainer.fit(module, datamodule=data)
    ink = data.table("train")[range(len(data.table("train")))].attributes["ink"].double()
    weights = (ink / 0.04).softmax(0)
    assert module.mean_reward == pytest.approx(float(ink.mean()), abs=1e-6)
    assert module.tuned_reward == pytest.approx(float((weights * ink).sum()), abs=1e-5)
    assert module.effective_share == pytest.approx(float(1 / (len(ink) * weights.square().sum())), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf])
def test_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got"):
        RewardWeightedModule(nn.Identity(), Ink(), temperature, schedule=SCHEDULE)


def test_a_reward_that_is_not_one_finite_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a reward must be one number per sample, but Identity returns \[4, 2\]"):
        measured(RewardWeightedModule(nn.Identity(), nn.Identity(), 1.0, schedule=SCHEDULE), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="First rewards 3 training samples with NaN or infinity"):
        measured(
            RewardWeightedModule(nn.Identity(), First(), 1.0, schedule=SCHEDULE),
            torch.tensor([[0.0], *[[math.nan]] * 3]),
        )
