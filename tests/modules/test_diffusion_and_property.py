"""Training of denoisers, with averaged weights, and of classifiers, on matching and mismatching data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny_runs import UNET, fit_briefly

from tag_lightning.callbacks import PretrainedExport
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import DiffusionModule, PropertyModule
from tag_lightning.networks import ImageClassifier
from tag_lightning.pretrained import load_pretrained


class _Raw(EMAWeightAveraging):
    """Keeps the weights of every step, to average them by hand."""

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay, update_every_n_steps=1)
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self.steps.append({k: v.detach().clone() for k, v in pl_module.network.state_dict().items()})
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)


def test_the_averaged_weights_of_a_denoiser_are_saved(tmp_path: Path) -> None:
    seed_everything(0)
    module = DiffusionModule(UNet2DModel(**UNET), LinearSchedule(20))
    averaging = _Raw(decay=0.5)
    fit_briefly(module, tmp_path, DigitsDataModule(size=8, batch_size=32), averaging, PretrainedExport())
    saved = load_pretrained(tmp_path / "pretrained").network.state_dict()
    expected = averaging.steps[0]
    for raw in averaging.steps[1:]:
        expected = {name: 0.5 * expected[name] + 0.5 * raw[name] for name in raw}
    assert any(not torch.equal(saved[name], averaging.steps[-1][name]) for name in saved)
    for name, value in saved.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_losses_of_a_denoiser_are_about_one_without_training(tmp_path: Path) -> None:
    seed_everything(0)
    module = DiffusionModule(UNet2DModel(**UNET), LinearSchedule(20))
    trainer = fit_briefly(module, tmp_path, DigitsDataModule(size=8, batch_size=32))
    for name in ("train/loss", "val/loss"):
        assert float(trainer.callback_metrics[name]) == pytest.approx(1, abs=0.5)


def test_a_classifier_logs_its_accuracy(tmp_path: Path) -> None:
    module = PropertyModule(ImageClassifier(widths=(8, 8)), noise=0.1)
    trainer = fit_briefly(module, tmp_path, DigitsDataModule(size=8, batch_size=32))
    assert {"train/loss", "val/loss", "val/accuracy"} <= trainer.callback_metrics.keys()
    assert 0 <= trainer.callback_metrics["val/accuracy"] <= 1


def test_an_unknown_attribute_is_refused_before_training(tmp_path: Path) -> None:
    module = PropertyModule(ImageClassifier(widths=(8, 8)), attribute="colour")
    with pytest.raises(ValueError, match="no attribute 'colour', only hue, label"):
        fit_briefly(module, tmp_path, DigitsDataModule(size=8))


def test_a_wrong_number_of_classes_is_refused_before_training(tmp_path: Path) -> None:
    module = PropertyModule(ImageClassifier(widths=(8, 8)), attribute="hue")
    with pytest.raises(ValueError, match="8 classes of 'hue' but the network has 10"):
        fit_briefly(module, tmp_path, DigitsDataModule(size=8))


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise must be at least 0"):
        PropertyModule(ImageClassifier(widths=(8, 8)), noise=-0.1)
