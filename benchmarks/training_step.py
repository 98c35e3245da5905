"""One training step: inside the Trainer, and in a bare loop that does the same arithmetic on the same batches."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from diffusers.models.unets.unet_2d import UNet2DModel
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from benchmarks.timing import now
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import DiffusionModule, TimePredictorModule
from tag_lightning.networks import SimpleCNN

_CONFIGS = Path(__file__).parents[1] / "configs" / "digits"
_WARM_UP = 5
_LEARNING_RATE = 1e-3


class Recipe(NamedTuple):
    """Data, network and settings of a training step.

    Attributes:
        what: Its name in the table.
        module: Builds the module from network, optimizer and scheduler.
        network: Builds the network.
        loss: From the network, noisy samples ``[B, ...]``, their noise and their timesteps ``[B]``.
        batch_size: Samples per batch.
        ema_decay: Decay of the EMA; None neither averages nor clips gradients.
        steps: How many are timed together.
    """

    what: str
    module: Callable[..., LightningModule]
    network: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    batch_size: int
    ema_decay: float | None
    steps: int


def _digits_unet() -> nn.Module:
    config = yaml.safe_load((_CONFIGS / "denoiser.yaml").read_text())
    return UNet2DModel(**config["model"]["init_args"]["network"]["init_args"])


RECIPES = (
    Recipe(
        "time predictor",
        TimePredictorModule,
        lambda: SimpleCNN(16),
        lambda network, x_t, epsilon, timesteps: F.cross_entropy(network(x_t), timesteps),
        256,
        None,
        60,
    ),
    Recipe(
        "denoiser",
        DiffusionModule,
        _digits_unet,
        lambda network, x_t, epsilon, timesteps: F.mse_loss(network(x_t, timesteps).sample, epsilon),
        64,
        0.998,
        25,
    ),
)


def trainer_seconds(recipe: Recipe, count: int, device: torch.device) -> float:
    """Seconds per step inside the Trainer, with the logger and the bar that the command line sets up on a terminal.

    Validation, sampling and checkpoints, which do not come with every step, are left out.

    Args:
        recipe: Data, network and batch size.
        count: Steps that are timed, after a few that warm up.
        device: Where to train.
    """
    clock = _Clock(_WARM_UP, _WARM_UP + count, device)
    averaging = [] if recipe.ema_decay is None else [EMAWeightAveraging(decay=recipe.ema_decay)]
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),  # the bar is drawn, but not over our own
    ):
        trainer = Trainer(
            max_steps=_WARM_UP + count,
            default_root_dir=folder,
            logger=TensorBoardLogger(folder, name="run", version="", default_hp_metric=False),
            callbacks=[clock, *averaging, TQDMProgressBar()],
            gradient_clip_val=None if recipe.ema_decay is None else 1.0,
            accelerator=device.type,
            devices=1,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            limit_val_batches=0,
        )
        module = recipe.module(recipe.network(), optimizer=_optimizer, lr_scheduler=_scheduler(count))
        trainer.fit(module, datamodule=DigitsDataModule(batch_size=recipe.batch_size))
    return (clock.ended - clock.started) / count


def bare_seconds(recipe: Recipe, count: int, device: torch.device) -> float:
    """Seconds per step in a loop without Lightning; arguments as of ``trainer_seconds``."""
    data = DigitsDataModule(batch_size=recipe.batch_size)
    network = recipe.network().train().to(device)
    schedule = LinearSchedule().to(device)
    optimizer = _optimizer(network.parameters())
    scheduler = _scheduler(count)(optimizer)
    averaged = None
    if recipe.ema_decay is not None:
        averaged = AveragedModel(network, avg_fn=get_ema_avg_fn(recipe.ema_decay), use_buffers=True)
    started, epoch, done = 0.0, 0, 0
    while True:
        loader: Any = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        epoch += 1
        for batch in loader:
            x0 = batch.x.to(device)
            timesteps = torch.randint(schedule.num_timesteps, (len(x0),), device=device)
            epsilon = torch.randn_like(x0)
            loss = recipe.loss(network, schedule.add_noise(x0, epsilon, timesteps), epsilon, timesteps)
            optimizer.zero_grad()
            loss.backward()
            if averaged is not None:
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if averaged is not None:
                averaged.update_parameters(network)
            done += 1
            if done == _WARM_UP:
                started = now(device)
            if done == _WARM_UP + count:
                return (now(device) - started) / count


def _optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=_LEARNING_RATE)


def _scheduler(count: int) -> Callable[[torch.optim.Optimizer], OneCycleLR]:
    return lambda optimizer: OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=_WARM_UP + count)


class _Clock(Callback):
    def __init__(self, start_at: int, end_at: int, device: torch.device) -> None:
        self.start_at = start_at
        self.end_at = end_at
        self.device = device
        self.started = self.ended = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        # Asking at every step would make a GPU wait at every step.
        if trainer.global_step == self.start_at:
            self.started = now(self.device)
        if trainer.global_step == self.end_at:
            self.ended = now(self.device)
