"""Training of the time predictor: logged values, stored values, refused settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging

from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import TimePredictorModule
from tag_lightning.modules.base import noised
from tag_lightning.modules.time_predictor import timestep_weights
from tag_lightning.networks import SimpleCNN
from tag_lightning.pretrained import load_pretrained


class Fitted(NamedTuple):
    module: TimePredictorModule
    trainer: Trainer
    checkpoint: Path


def _module(noise_draws: int = 2, num_timesteps: int = 20, seed: int = 0) -> TimePredictorModule:
    seed_everything(0)
    network = SimpleCNN(sample_size=8, num_timesteps=20, widths=(8, 8))
    return TimePredictorModule(network, LinearSchedule(num_timesteps), noise_draws=noise_draws, seed=seed)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("fit")
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=2,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = _module()
    trainer.fit(module, datamodule=DigitsDataModule(size=8))
    trainer.save_checkpoint(folder / "last.ckpt")
    return Fitted(module, trainer, folder / "last.ckpt")


def test_validation_logs_gap_tenths_and_calibration(fitted: Fitted) -> None:
    logged = {name: float(value) for name, value in fitted.trainer.callback_metrics.items()}
    tenths = [logged[f"val/time_gap_tenth_{i}"] for i in range(10)]
    assert logged["val/time_gap"] == pytest.approx(sum(tenths) / 10, rel=0.05)
    assert all(0 <= gap <= 19 for gap in tenths)
    # Two steps leave the predictor close to a uniform guess.
    assert logged["val/loss"] == pytest.approx(math.log(20), abs=0.5)
    assert logged["val/calibration_nll"] == pytest.approx(logged["val/loss"], rel=1e-4)
    assert 0 <= logged["val/calibration_coverage_90"] <= 1
    assert logged["val/calibration_z_squared"] > 0


def test_the_typical_likelihood_is_stored_with_the_weights(fitted: Fitted) -> None:
    typical = fitted.module.network.typical_nll
    assert typical.shape == (20,)
    assert typical.isfinite().all()
    loaded = load_pretrained(fitted.checkpoint)
    assert torch.equal(loaded.network.typical_nll, typical)
    assert torch.equal(loaded.schedule.alphas_cumprod, fitted.module.schedule.alphas_cumprod)


def test_quantiles_of_the_likelihood_are_stored_beside_it(fitted: Fitted) -> None:
    network = fitted.module.network
    assert network.nll_quantiles.shape == (5, 20)
    assert (network.nll_quantiles.diff(dim=0) >= 0).all()
    middle = network.nll_quantiles[0]
    assert ((middle - network.typical_nll).abs() < 0.5).all()  # close to a uniform guess, mean and median agree
    assert torch.equal(load_pretrained(fitted.checkpoint).network.nll_quantiles, network.nll_quantiles)


def test_a_checkpoint_from_before_there_were_quantiles_loads_and_has_none(fitted: Fitted, tmp_path: Path) -> None:
    checkpoint = torch.load(fitted.checkpoint, weights_only=True)
    del checkpoint["state_dict"]["network.nll_quantiles"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    assert load_pretrained(tmp_path / "old.ckpt").network.nll_quantiles.isnan().all()
    module = _module()
    module.load_state_dict(checkpoint["state_dict"])
    assert module.network.nll_quantiles.isnan().all()
    assert torch.equal(module.network.typical_nll, fitted.module.network.typical_nll)


def test_testing_leaves_the_typical_likelihood_of_the_checkpoint(fitted: Fitted) -> None:
    module = _module()
    module.network.typical_nll.fill_(3.0)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, limit_test_batches=1)
    trainer.test(module, datamodule=DigitsDataModule(size=8), verbose=False)
    assert "test/time_gap" in trainer.callback_metrics
    assert module.sampling_resources()["predictor"].typical_nll.eq(3).all()


def test_randomness_follows_from_the_index() -> None:
    def draw(module: TimePredictorModule, index: int) -> list[float]:
        return torch.rand(4, generator=module.generator(index)).tolist()

    module = _module()
    drawn = {}
    for training in (True, False):
        module.train(training)
        for index in range(3):
            drawn[training, index] = draw(module, index)
            assert draw(module, index) == drawn[training, index]
    assert len({tuple(values) for values in drawn.values()}) == 6
    assert draw(_module(seed=1), 0) != drawn[True, 0]


def test_a_schedule_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="tells 20 timesteps apart but the schedule has 30"):
        _module(num_timesteps=30)


def test_no_noise_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="noise_draws must be at least 1"):
        _module(noise_draws=0)


def test_a_checkpoint_of_another_schedule_is_refused(fitted: Fitted) -> None:
    checkpoint = torch.load(fitted.checkpoint, weights_only=True)
    network = SimpleCNN(sample_size=8, num_timesteps=20, widths=(8, 8))
    other = TimePredictorModule(network, LinearSchedule(20, beta_end=0.03))
    with pytest.raises(ValueError, match="follow different noise schedules"):
        other.on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="not made by tag_lightning"):
        other.on_load_checkpoint({})


@pytest.mark.parametrize("use_buffers", [True, False])
def test_weight_averaging_keeps_the_typical_likelihood(use_buffers: bool, tmp_path: Path) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> Fitted:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            # The last epoch goes on after the measurement, in the first run and in its continuation.
            check_val_every_n_epoch=2,
            limit_train_batches=2,
            limit_val_batches=1,
            num_sanity_val_steps=0,
            callbacks=[EMAWeightAveraging(decay=0.5, use_buffers=use_buffers)],
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = _module()
        trainer.fit(module, datamodule=DigitsDataModule(size=8), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return Fitted(module, trainer, tmp_path / f"{epochs}.ckpt")

    for fitted in (first := fit(3), fit(4, first.checkpoint), fit(5, tmp_path / "4.ckpt")):
        typical, measured = fitted.module.network.typical_nll, fitted.module.typical_nll
        assert typical.isfinite().all()
        state = torch.load(fitted.checkpoint, weights_only=True)
        for weights in ("state_dict", "current_model_state"):
            assert torch.equal(state[weights]["network.typical_nll"], typical)
        if fitted.trainer.max_epochs < 5:  # the last run had no validation
            assert torch.allclose(typical, measured.compute().float())


def test_emphasis_draws_timesteps_by_the_growth_of_the_noise() -> None:
    schedule = LinearSchedule(50)
    weights = timestep_weights(schedule, 0.25)
    assert float(weights.sum()) == pytest.approx(1, rel=1e-5)
    assert float(weights.min()) >= 0.75 / 50 * 0.999
    variance = 1 - schedule.alphas_cumprod.double()
    growth = torch.log(variance[1:] / variance[:-1])
    share = (weights.double() - 0.75 / 50)[1:] / growth
    torch.testing.assert_close(share, share[:1].expand(49), rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match=r"emphasis is a share in \[0, 1\], got 1\.5"):
        TimePredictorModule(SimpleCNN(8, num_timesteps=20, widths=(8, 8)), LinearSchedule(20), emphasis=1.5)


def test_emphasis_leaves_the_posterior_that_of_uniform_timesteps() -> None:
    """The exact uniform posterior is a stationary point of the emphasised loss, and not of the plain loss."""
    schedule = LinearSchedule(4)
    generator = torch.Generator().manual_seed(0)
    weights = timestep_weights(schedule, 1.0)
    x0 = torch.zeros(200_000, 1, dtype=torch.float64)
    x_t, _, drawn = noised(x0, schedule, generator, weights=weights)
    torch.testing.assert_close(drawn.bincount(minlength=4) / len(drawn), weights, rtol=0, atol=0.005)
    sigma = (1 - schedule.alphas_cumprod.double()).sqrt()
    logits = -0.5 * (x_t / sigma).square() - sigma.log()  # log p(x | t) up to a constant
    shift = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for correction, exact in ((weights.log(), True), (torch.zeros(4), False)):
        loss = torch.nn.functional.cross_entropy(logits + shift + correction, drawn)
        (gradient,) = torch.autograd.grad(loss, shift)
        assert (float(gradient.abs().max()) < 0.005) is exact


def test_emphasis_is_trained(tmp_path: Path) -> None:
    module = TimePredictorModule(
        SimpleCNN(sample_size=8, num_timesteps=20, widths=(8, 8)), LinearSchedule(20), emphasis=0.5
    )
    data = DigitsDataModule(size=8)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    x_t, _, drawn = noised(batch.x, module.schedule, module.generator(0), None, timestep_weights(module.schedule, 0.5))
    logits = module.network(x_t) + timestep_weights(module.schedule, 0.5).log()
    module.log = lambda *arguments, **keywords: None  # type: ignore[method-assign]
    loss = module.training_step(batch, 0)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, drawn))
