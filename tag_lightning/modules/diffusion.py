"""Training of the denoiser."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from tag_lightning.diffusion import Denoiser, LinearSchedule, NoiseSchedule
from tag_lightning.modules.base import NetworkModule, noised
from tag_lightning.networks.trial_run import require_accepts


class DiffusionModule(NetworkModule):
    """Trains a network to predict the noise in a sample (Ho et al. 2020, Eq. 14).

    Logs ``train/loss`` and ``val/loss``, the mean squared error of epsilon (over real atoms for molecules). For
    an exponential moving average of the weights add ``WarmedUpEMA``.

    Args:
        network: Predicts epsilon, for example diffusers' ``UNet2DModel``.
        schedule: None is ``LinearSchedule()``, the published one.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        seed: Seed of timesteps and noise.
    """

    schedule: NoiseSchedule

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, schedule or LinearSchedule(), optimizer, lr_scheduler, seed)

    def try_network(self, example: Any) -> None:
        first = torch.zeros(1, dtype=torch.long)
        require_accepts(self.network, example.x.shape[1:], "model.network", first, **example.inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch, self.batches_trained)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        self.mean_loss.update(self._loss(batch, batch_idx), len(batch.x))

    def sampling_resources(self) -> dict[str, Any]:
        """The denoiser, for guided sampling."""
        return {"denoiser": Denoiser(self.network, self.schedule)}

    def _loss(self, batch: Any, index: int) -> Tensor:
        mask = batch.inputs.get("mask")
        x_t, epsilon, timesteps = noised(batch.x, self.schedule, self.generator(index), mask)
        output = self.network(x_t, timesteps, **batch.inputs)
        predicted = output if isinstance(output, Tensor) else output.sample
        if mask is not None:  # padding has no error and would dilute the mean
            predicted, epsilon = predicted[mask], epsilon[mask]
        return F.mse_loss(predicted, epsilon)
