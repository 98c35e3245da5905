"""EMA of the weights, on the training device."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class WarmedUpEMA(WeightAveraging):
    """Exponential moving average of the weights after every step, used in validation and saved.

    ``average <- d average + (1 - d) weights`` with ``d = min(decay, (1 + n) / (10 + n))`` at the ``n``-th update,
    the warm-up of diffusers' ``EMAModel``: an average with a decay of 0.9999 would otherwise still hold a seventh
    of its first weights after 20,000 steps. Lightning's ``EMAWeightAveraging`` has no warm-up, and leaves the
    average on the CPU, the device of the module during setup.

    Args:
        decay: Decay of the average, in [0, 1).

    Raises:
        ValueError: If ``decay`` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}")
        super().__init__(multi_avg_fn=partial(_average, decay))
        # The weights at the end of the training, until the last checkpoint is written.
        self._trained: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # From here on the module holds the average, from which a longer training must not go on.
        self._trained = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        super().on_train_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trained is not None:
            checkpoint["current_model_state"] = self._trained


@torch.no_grad()
def _average(decay: float, averages: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
    """Move ``averages`` towards ``current``, in place; called once for all tensors of one type."""
    n = int(updates)
    weight = 1 - min(decay, (1 + n) / (10 + n))
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, current, weight)
    else:  # counters and the like have no average
        torch._foreach_copy_(averages, current)
