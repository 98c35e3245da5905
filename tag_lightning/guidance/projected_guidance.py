"""Adaptive projected guidance (Sadat et al. 2024): classifier-free guidance with a tamed update."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import Prediction, Step
from tag_lightning.guidance.classifier_free import ConditionContrast, inner_product


class APG(ConditionContrast):
    """Adaptive projected guidance, APG (Sadat et al. 2024, arXiv 2410.02416, Algorithm 1).

    The update ``x0(x, c) - x0(x)`` of classifier-free guidance is averaged over the steps with momentum, capped in
    length, and weakened along ``x0(x, c)``; ``x0(x, c)`` plus ``w - 1`` times it is the guided estimate. With
    ``parallel_weight`` 1, ``momentum`` 0 and no ``norm_threshold`` it is ``CFG``.

    Args:
        guidance_scale: w, at least 0; 1 samples with the condition alone.
        parallel_weight: eta, the weight of the part of the update along ``x0(x, c)``.
        norm_threshold: r, the largest Euclidean norm of a sample's update, above 0; None is unbounded. Published are 5
            for 4x32x32 latents and 15 for 4x128x128 ones, which do not carry over to other sizes.
        momentum: beta, weight of the earlier updates, in (-1, 1); negative values push away from them.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If a setting is out of range.
    """

    cost = "denoiser 2 / 0"

    def __init__(
        self,
        guidance_scale: float = 2.0,
        parallel_weight: float = 0.0,
        norm_threshold: float | None = None,
        momentum: float = -0.5,
        **interval: Any,
    ) -> None:
        super().__init__(guidance_scale, **interval)
        if not math.isfinite(parallel_weight):
            raise ValueError(f"parallel_weight must be finite, got {parallel_weight}")
        if norm_threshold is not None and not norm_threshold > 0:
            raise ValueError(f"norm_threshold must be above 0, or null for none, got {norm_threshold}")
        if not -1 < momentum < 1:
            raise ValueError(f"momentum must lie in (-1, 1), got {momentum}")
        self.parallel_weight = parallel_weight
        self.norm_threshold = norm_threshold
        self.momentum = momentum

    def mixed(self, conditional: Prediction, unconditional: Prediction, step: Step) -> Prediction:
        update = self._averaged(conditional.x0 - unconditional.x0, step)
        if self.norm_threshold is not None:
            norm = inner_product(update, update).sqrt()
            update = update * (self.norm_threshold / norm.clamp(min=self.norm_threshold))
        tiny = torch.finfo(update.dtype).tiny
        along = (
            inner_product(update, conditional.x0)
            / inner_product(conditional.x0, conditional.x0).clamp(min=tiny)
            * conditional.x0
        )
        update = update + (self.parallel_weight - 1) * along
        return conditional.with_x0(conditional.x0 + (self.guidance_scale - 1) * update, step)

    def _averaged(self, update: Tensor, step: Step) -> Tensor:
        """The update plus ``momentum`` times the average of the steps before, ``[B, ...]``."""
        if step.state.get("place") != step.place:  # others may ask for several predictions in one step
            step.state["place"], step.state["before"] = step.place, step.state.get("average")
        before = step.state["before"]
        average = update if before is None else update + self.momentum * before
        step.state["average"] = average.detach()
        return average
