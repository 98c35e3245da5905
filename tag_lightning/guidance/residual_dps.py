"""Diffusion posterior sampling whose steps do not shrink with a squared residual."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Prediction, Run, Step, per_sample
from tag_lightning.guidance.conditions import Condition, JointCondition, residual_norm
from tag_lightning.guidance.dps import DPS


class ResidualDPS(DPS):
    """DPS with its gradient divided by the residual (Chung et al. 2023, Algorithm 1 with the step size of Section 4).

    For a squared loss ``L = |r|^2 / 2`` the gradient is divided by ``|r| = sqrt(2 L)``, so that the step does not
    shrink with the residual. That is plain ``DPS`` with the loss ``residual_norm``, as restoration tasks have it. The
    paper's ``zeta'`` is half of ``scale``.

    Raises:
        ValueError: As ``DPS``; when the run is known, if a condition's loss is ``residual_norm``, which is no square.
    """

    cost = "denoiser 1 / 1, guide 2 / 1"

    def for_run(self, run: Run) -> Self:
        ready = super().for_run(run)
        asked = ready.condition
        for one in asked.conditions if isinstance(asked, JointCondition) else (asked,):
            if isinstance(one, Condition) and one.loss is residual_norm:
                raise ValueError(
                    f"{type(self).__name__} divides the gradient of a squared loss by the residual, but this loss is "
                    "the residual's norm already; use DPS, which is the same"
                )
        return ready

    def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        gradient = super().gradient(x, prediction, step)
        with torch.no_grad():
            loss = self.smoothed(self.clean_estimate(prediction, step), step).abs()
        residual = (2 * loss).sqrt().clamp(min=torch.finfo(loss.dtype).tiny)
        return gradient / per_sample(residual, gradient)
