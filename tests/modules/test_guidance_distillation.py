"""Distillation of guidance: the loss in closed form, the base untouched, a resumed fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import TinyNetworks
from tiny_trajectories import data, write_base

from tag_lightning.callbacks import WarmedUpEMA
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.modules import GuidanceDistillationModule
from tag_lightning.networks.frozen_base import weights_digest
from tag_lightning.pretrained import load_pretrained

# Modules called by hand have nowhere to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("networks") / "base")


def module(base: str) -> GuidanceDistillationModule:
    made = GuidanceDistillationModule(base, 8, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    made.network.scale_range.copy_(torch.tensor([1.0, 6.0]))
    return made


def fitted(base: str, folder: Path, steps: int, source: Path | None = None) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    saved = ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=1)
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=[saved, WarmedUpEMA(0.5)], **quiet)
    made = GuidanceDistillationModule(base, 8, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    trainer.fit(made, datamodule=data(base, folder.parent / "cache", seed=3), ckpt_path=source)
    return trainer


def test_the_first_loss_is_the_squared_distance_of_the_two_answers_times_the_excess_of_the_scale(
    base: str, tmp_path: Path
) -> None:
    """``(w - 1)^2 |epsilon(x, c) - epsilon(x)|^2``, up to the rounding of the trajectories to half precision."""
    batch: Any = data(base, tmp_path).table("train")[list(range(48))]
    network, excess = load_pretrained(base).network, batch.inputs["guidance_scale"] - 1
    with torch.no_grad():
        conditional, unconditional = (
            network(batch.x, batch.timesteps, class_labels=classes).sample
            for classes in (batch.attributes["label"], torch.full((48,), 3))
        )
    expected = float((excess.square() * (conditional - unconditional).square().mean((1, 2, 3))).mean())
    loss = float(module(base).training_step(batch, 0).detach())
    assert loss == pytest.approx(expected, rel=0.02)


def test_only_adapters_train(base: str, tmp_path: Path) -> None:
    made, batch = module(base), data(base, tmp_path).table("train")[list(range(8))]  # type: ignore[index]
    optimizer = made.configure_optimizers()
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    frozen = {id(parameter) for parameter in made.network.frozen.parameters()}
    assert trained == {id(parameter) for parameter in made.parameters()} - frozen
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == sum(
        p.numel() for group in optimizer.param_groups for p in group["params"]
    )
    before = made.network.adapters[0].outer.weight.clone()
    made.training_step(batch, 0).backward()
    optimizer.step()
    assert not torch.equal(made.network.adapters[0].outer.weight, before)
    assert weights_digest(made.network.frozen) == weights_digest(load_pretrained(base).network)


def test_a_few_steps_of_training_come_nearer_to_guidance(base: str, tmp_path: Path) -> None:
    made, batch = module(base), data(base, tmp_path).table("train")[list(range(48))]  # type: ignore[index]
    optimizer, losses = made.configure_optimizers(), []
    for _ in range(25):
        optimizer.zero_grad()
        loss = made.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_resumed_fit_ends_as_an_uninterrupted_one(base: str, tmp_path: Path) -> None:
    """In checkpoints without the base, with averaged weights."""
    fitted(base, tmp_path / "whole", 5)
    fitted(base, tmp_path / "cut", 3)
    fitted(base, tmp_path / "resumed", 5, tmp_path / "cut" / "last.ckpt")
    whole, resumed = (tmp_path / run / "last.ckpt" for run in ("whole", "resumed"))
    first, second = (torch.load(file, weights_only=True)["state_dict"] for file in (whole, resumed))
    assert not any("frozen" in key for key in first)
    assert all(torch.equal(first[key], second[key]) for key in first)
    loaded: Any = load_pretrained(resumed)
    assert loaded.network.scale_range.tolist() == [1.0, 6.0]


def test_validation_logs_the_share_that_is_left(base: str, tmp_path: Path) -> None:
    trainer = fitted(base, tmp_path / "run", 12)
    logged = trainer.callback_metrics
    assert 0 < float(logged["val/remaining"]) < 1
    untrained = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (figures,) = untrained.validate(module(base), datamodule=data(base, tmp_path / "cache"), verbose=False)
    assert figures["val/remaining"] == pytest.approx(1.0)
    assert float(logged["val/loss"]) < figures["val/loss"]


def test_other_data_are_refused(base: str, tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="got DigitsDataModule; use GuidedTrajectoriesDataModule"):
        trainer.validate(module(base), datamodule=DigitsDataModule(size=8, tinted=False), verbose=False)
    other = write_base(tmp_path / "other")
    with pytest.raises(ValueError, match=r"were drawn by .*other, but the adapters are for .*base; give"):
        trainer.validate(module(base), datamodule=data(other, tmp_path), verbose=False)


def test_a_base_that_is_not_a_conditional_denoiser_is_refused(tiny: TinyNetworks) -> None:
    with pytest.raises(ValueError, match="denoiser is not told a class that was dropped at random"):
        GuidanceDistillationModule(str(tiny.root / "denoiser"))
    with pytest.raises(ValueError, match="guide is not a UNet2DModel with its noise schedule"):
        GuidanceDistillationModule(str(tiny.root / "guide"))
