"""Guidance by a predictor on clean samples, without training anything on noisy ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tag_lightning.diffusion import Predict, Prediction, Step, require_finite
from tag_lightning.guidance.base import ConditionedGuidance
from tag_lightning.guidance.conditions import Condition, JointCondition


class DPS(ConditionedGuidance):
    """Diffusion posterior sampling (Chung et al. 2023, Algorithm 1), as in the TFG family (Ye et al. 2024).

    ``x_{t-1} <- x_{t-1} + scale * sqrt(a' / a) * grad_{x_t} log p(c | x0_hat(x_t))`` with
    ``a = alphas_cumprod[t]`` and ``a'`` that of the next timestep. Costs one backward pass of the denoiser.

    Args:
        condition: See ``ConditionedGuidance``.
        scale: Guidance scale, at least 0.

    Raises:
        ValueError: If ``scale`` is negative or not finite.
    """

    needs_grad = True

    def __init__(
        self, condition: Condition | JointCondition | str | Sequence[str] | None = None, scale: float = 1.0
    ) -> None:
        super().__init__(condition)
        if not 0 <= scale < math.inf:
            raise ValueError(f"scale must be a finite number of at least 0, got {scale}")
        self.scale = scale

    def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return x_next + math.sqrt(step.next_alpha_cumprod / step.alpha_cumprod) * self._shift(x, prediction, step)

    def look_ahead(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """How this guidance would move ``x [B, ...]`` itself, at the cost of a guided denoiser call."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            prediction = predict(x, step.timestep)
            require_finite(prediction.epsilon, "the denoiser", step.timestep)
            return self._shift(x, prediction, step)

    def _shift(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        with torch.enable_grad():
            log_likelihood = self.log_likelihood(prediction.x0, **step.space.inputs)
            require_finite(log_likelihood, "the guide", step.timestep)
            # Other guidances of the same step may still differentiate this prediction.
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), x, retain_graph=True)
        return self.scale * step.space.project(require_finite(gradient, "the gradient of the guide", step.timestep))
