"""Rewards as conditions: text to image with CLIP scores, aesthetic predictors, or any differentiable function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tag_lightning.guidance.conditions import Condition


class Reward(Condition):
    """``log p(c | x0) = weight r(x0)``: samples tilted towards a reward (as in Kim et al. 2025, arXiv 2501.05803).

    In a ``LatentSpace`` the reward sees the decoded image.

    Args:
        reward: Differentiable, ``[B]`` for clean samples ``[B, ...]``, such as ``networks.CLIPScore``.
        weight: Weight of the reward, the reciprocal of its temperature; below 0 it is avoided.

    Raises:
        ValueError: If ``weight`` is not finite; and in a run, if ``reward`` does not return one number per sample.
    """

    def __init__(self, reward: nn.Module | Callable[[Tensor], Tensor], weight: float = 1.0) -> None:
        if not math.isfinite(weight):
            raise ValueError(f"weight must be a finite number, got {weight}")
        super().__init__(reward, torch.zeros(()), loss=lambda output, target: -weight * output)  # type: ignore[arg-type]
        self.weight = weight

    def log_likelihood(self, x0: Tensor, **inputs: Tensor) -> Tensor:
        """The weighted reward, ``[B]``, of clean samples ``x0 [B, ...]``."""
        values = super().log_likelihood(x0, **inputs)
        if values.shape != x0.shape[:1]:
            name = getattr(self.predictor, "__name__", type(self.predictor).__name__)
            raise ValueError(
                f"the reward {name} returns {list(values.shape)} for {len(x0)} samples, expected one number each"
            )
        return values
