"""Gradient clipping at a bound that follows the recent gradient norms."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class AdaptiveGradientClipping(Callback):
    """Clips the gradient's norm at ``1.5 mean + 2 std`` of the last norms, as EDM does (Hoogeboom et al. 2022).

    The norms kept are those after clipping, so that one outburst does not raise the bound. Their queue starts
    with one large value, as the published code does, and is part of checkpoints.

    Args:
        window: Number of norms kept, at least 2.
        first: First value of the queue, above 0.

    Raises:
        ValueError: If ``window`` is below 2 or ``first`` not above 0.
    """

    def __init__(self, window: int = 50, first: float = 3000.0) -> None:
        if window < 2 or first <= 0:
            raise ValueError(f"window must be at least 2 and first above 0, got {window} and {first}")
        self.window = window
        self.norms = [first]

    @property
    def bound(self) -> float:
        """The largest norm that passes now."""
        norms = torch.tensor(self.norms, dtype=torch.float64)
        return float(1.5 * norms.mean() + 2 * norms.std(correction=0))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        bound = self.bound
        norm = float(torch.nn.utils.clip_grad_norm_(pl_module.parameters(), bound))
        if math.isfinite(norm):  # one that is not would be the bound from then on
            self.norms = [*self.norms, min(norm, bound)][-self.window :]

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.norms = list(state_dict["norms"])
