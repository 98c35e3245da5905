"""Guidance by a predictor on clean samples, without training anything on noisy ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tag_lightning.diffusion import Prediction, Proposal, Step, per_sample
from tag_lightning.guidance.conditions import Condition, ConditionedGuidance, JointCondition


class DPS(ConditionedGuidance):
    """Diffusion posterior sampling (Chung et al. 2023, Algorithm 1), as in the TFG family (Ye et al. 2024).

    ``x_{t-1} <- x_{t-1} + scale * sqrt(a' / a) * grad_{x_t} log p(c | x0_hat(x_t))`` with
    ``a = alphas_cumprod[t]`` and ``a'`` that of the next timestep. Costs one backward pass of the denoiser.

    Args:
        condition: See ``ConditionedGuidance``.
        scale: Guidance scale, at least 0.
        clip: Longest gradient, as a root mean square over the sample's degrees of freedom, above 0. Near pure
            noise Tweedie's estimate, and so the gradient, grows like ``1 / sqrt(alphas_cumprod)``. None does not clip.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``scale`` is negative or ``clip`` not positive, or one is not finite.
    """

    def __init__(
        self,
        condition: Condition | JointCondition | str | Sequence[str] | None = None,
        scale: float = 1.0,
        clip: float | None = None,
        **interval: Any,
    ) -> None:
        super().__init__(condition, **interval)
        if not 0 <= scale < math.inf:
            raise ValueError(f"scale must be a finite number of at least 0, got {scale}")
        if clip is not None and not 0 < clip < math.inf:
            raise ValueError(f"clip must be a finite number above 0, or null for none, got {clip}")
        self.scale = scale
        self.clip = clip

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        factor = math.sqrt(step.next_alpha_bar / step.alpha_bar)
        return proposal.moved(factor * self.displacement(x, prediction, step))

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        gradient = self.gradient(x, prediction, step)
        if self.clip is not None:
            length = gradient.flatten(1).norm(dim=1) / step.space.degrees_of_freedom.clamp(min=1).sqrt()
            gradient = gradient * per_sample((self.clip / length).clamp(max=1), gradient)
        return self.scale * gradient
