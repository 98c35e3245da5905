"""Manifold-preserving guided diffusion."""

from __future__ import annotations

from typing import Any

from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import Conditions
from tag_lightning.guidance.tfg import TFG, StepSchedule


class MPGD(TFG):
    """Manifold-preserving guided diffusion without an autoencoder (He et al. 2024, arXiv 2311.16424, Algorithm 1).

    ``x0_hat <- x0_hat + mu_t * grad_{x0} log p(c | x0_hat)``, with ``mu_t`` of mean ``scale`` over the steps; the step
    to ``x_{t-1}`` keeps the predicted noise. Nothing runs backward through the denoiser.

    Args:
        condition: See ``ConditionedGuidance``.
        scale: Mean step length, at least 0.
        num_iterations: Moves per step.
        mu_schedule: Course of the step length.
        clip: See ``TFG``.
        guide_clipped: See ``TFG``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: See ``TFG``.
    """

    cost = "denoiser 1 / 0, guide n / n"

    def __init__(
        self,
        condition: Conditions = None,
        scale: float = 1.0,
        num_iterations: int = 1,
        mu_schedule: StepSchedule = "constant",
        clip: float | None = None,
        guide_clipped: bool = False,
        **interval: Any,
    ) -> None:
        require_non_negative("scale", scale)
        super().__init__(
            condition,
            0,
            scale,
            num_iterations=num_iterations,
            mu_schedule=mu_schedule,
            clip=clip,
            guide_clipped=guide_clipped,
            **interval,
        )
