"""Each batch of one optimizer step has its own noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from lightning import Trainer
from tiny_runs import UNET

from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import DiffusionModule, PropertyModule, TimePredictorModule
from tag_lightning.modules.base import NetworkModule
from tag_lightning.networks import ImageClassifier, SimpleCNN

MODULES = {
    "denoiser": lambda: DiffusionModule(UNet2DModel(**UNET), LinearSchedule(20)),
    "time predictor": lambda: TimePredictorModule(SimpleCNN(8, num_timesteps=20, widths=(8, 8)), LinearSchedule(20)),
    "guide": lambda: PropertyModule(ImageClassifier(widths=(8, 8)), noise=0.1),
}


def _noise_of_batches(module: NetworkModule, folder: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int) -> Any:
    indices = []
    generator = module.generator

    def recorded(index: int) -> torch.Generator:
        if module.training:
            indices.append(index)
        return generator(index)

    monkeypatch.setattr(module, "generator", recorded)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=1,
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=DigitsDataModule(size=8, batch_size=8))
    assert trainer.global_step == 2 * -(-3 // accumulate)
    return indices


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", MODULES)
def test_every_batch_has_noise_of_its_own(
    kind: str, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = MODULES[kind]()
    # Without accumulation these are the optimizer steps, by which results made before were noised.
    assert _noise_of_batches(module, tmp_path, monkeypatch, accumulate) == [0, 1, 2, 3, 4, 5]
