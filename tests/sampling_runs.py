"""Guided sampling with small networks in a ``Trainer``, without the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Trainer
from tiny_runs import SIZE, TIMESTEPS, TinyNetworks, seeded

from tag_lightning.callbacks import GuidedSampling
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.evaluation import ImageTask
from tag_lightning.modules import TimePredictorModule
from tag_lightning.networks import SimpleCNN


def tiny_module() -> TimePredictorModule:
    """A time predictor to be trained."""
    network = seeded(lambda: SimpleCNN(SIZE, num_timesteps=TIMESTEPS, widths=(8, 8)), 1)
    return TimePredictorModule(network, LinearSchedule(num_timesteps=TIMESTEPS), noise_draws=1)


def tiny_sampling(tiny: TinyNetworks, **settings: Any) -> GuidedSampling:
    """Six samples per arm in three steps."""
    defaults = {"denoiser": str(tiny.root / "denoiser"), "num_steps": 3, "num_samples": 6, "chunk_size": 4}
    return GuidedSampling(**{**defaults, "task": tiny_task(tiny), **settings})


def tiny_task(tiny: TinyNetworks, **settings: Any) -> ImageTask:
    """Digits with guide and judge, not bound to data yet."""
    sources = {role: str(tiny.root / role) for role in ("guide", "judge")}
    return ImageTask(**{**sources, "features": "judge", **settings})


def tiny_trainer(folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    """A silent trainer of one batch an epoch."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    limits = {"limit_train_batches": 1, "limit_val_batches": 1, "enable_model_summary": False}
    options = {"accelerator": "cpu", "default_root_dir": folder, **quiet, **limits, **settings}
    return Trainer(callbacks=list(callbacks), **options)


def tiny_data() -> DigitsDataModule:
    """Digits of 8x8."""
    return DigitsDataModule(size=SIZE, batch_size=64)
