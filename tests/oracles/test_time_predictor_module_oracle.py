"""What ``TimePredictorModule`` measures and what it trains, held to the exact posterior of a Gaussian mixture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gaussian_mixture import ExactTimePosterior, typical_nll
from lightning import Trainer
from problems import TOY
from torch import Tensor
from torch.utils.data import DataLoader

from tag_lightning.datamodules import Batch, MixtureDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import TimePredictorModule
from tag_lightning.networks import MLPTimePredictor
from tag_lightning.networks.time_predictor import TimePredictor

TIMESTEPS = 20


def schedule() -> LinearSchedule:
    """Too few timesteps for the module to average neighbours, and the last ones are hard to tell apart."""
    return LinearSchedule(TIMESTEPS, 1e-4, 0.9)


def trainer(folder: Path, epochs: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def cost_of_each_timestep() -> Tensor:
    """``E[-log p(t | x_t)]`` for every t, ``[T]``, from draws that the module never sees."""
    return typical_nll(TOY, schedule(), 2000, torch.Generator().manual_seed(1))


class PerfectPredictor(TimePredictor):
    """Answers with the exact posterior."""

    def __init__(self) -> None:
        super().__init__(TIMESTEPS)
        self.posterior = ExactTimePosterior(TOY, schedule())

    def forward(self, x: Tensor) -> Tensor:
        return self.posterior(x)


def test_the_typical_likelihood_of_the_exact_posterior_is_that_of_the_oracle(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [Batch(TOY.sample(500, generator), {}, {}) for _ in range(2)]
    module = TimePredictorModule(PerfectPredictor(), schedule(), noise_draws=64)
    runs = trainer(tmp_path)
    (logged,) = runs.validate(module, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
    expected = cost_of_each_timestep()
    # A curve that is flat, or the same from both ends, would tell no timestep from another.
    assert (expected - expected.flip(0)).abs().max() > 1
    # Standard errors of about 0.03 on both sides; a shift by one timestep is off by 0.38.
    for measured in (module.typical_nll.compute(), module.network.typical_nll.double()):
        torch.testing.assert_close(measured, expected, rtol=0, atol=0.12)
    # Bayes: who answers with the true posterior loses its entropy, and is calibrated.
    assert logged["val/loss"] == pytest.approx(float(expected.mean()), abs=0.03)
    assert logged["val/calibration_nll"] == pytest.approx(logged["val/loss"], rel=1e-4)
    assert logged["val/calibration_coverage_90"] == pytest.approx(0.9, abs=0.01)


def test_a_predictor_trained_by_the_module_approaches_the_exact_posterior(tmp_path: Path) -> None:
    """On the data of ``configs/toy``. Measured: exact 1.682, trained 1.690 nats; ``log 20`` is 2.996."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLPTimePredictor(2, TIMESTEPS, widths=(64, 64))
    data = MixtureDataModule(num_points=50_000, batch_size=512)
    runs = trainer(tmp_path, epochs=3)
    module = TimePredictorModule(
        network,
        schedule(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=291),
        noise_draws=4,
    )
    runs.fit(module, datamodule=data)

    generator = torch.Generator().manual_seed(2)
    x0 = TOY.sample(20_000, generator)
    timesteps = torch.randint(TIMESTEPS, (len(x0),), generator=generator)
    epsilon = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    x = schedule().add_noise(x0, epsilon, timesteps)
    with torch.no_grad():
        exact = F.cross_entropy(ExactTimePosterior(TOY, schedule())(x), timesteps)
        trained = F.cross_entropy(network.eval()(x.float()), timesteps)
    assert exact - 0.01 < trained < exact + 0.03
    # And the module's own figures say so.
    assert float(runs.callback_metrics["val/loss"]) == pytest.approx(float(trained), abs=0.04)
    torch.testing.assert_close(network.typical_nll.double(), cost_of_each_timestep(), rtol=0, atol=0.2)
