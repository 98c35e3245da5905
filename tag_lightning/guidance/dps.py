"""Diffusion posterior sampling."""

from __future__ import annotations

from typing import Any

from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import Conditions
from tag_lightning.guidance.tfg import TFG


class DPS(TFG):
    """Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, Algorithm 1), as in the TFG family.

    ``x_{t-1} <- x_{t-1} + scale * sqrt(a' / a) * grad_{x_t} log p(c | x0_hat(x_t))`` with
    ``a = alphas_cumprod[t]`` and ``a'`` that of the next timestep. Costs one backward pass of the denoiser.

    Args:
        condition: See ``ConditionedGuidance``.
        scale: Guidance scale, at least 0.
        clip: See ``TFG``.
        guide_clipped: See ``TFG``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``scale`` is negative or ``clip`` not positive, or one is not finite.
    """

    cost = "denoiser 1 / 1, guide 1 / 1"

    def __init__(
        self,
        condition: Conditions = None,
        scale: float = 1.0,
        clip: float | None = None,
        guide_clipped: bool = False,
        **interval: Any,
    ) -> None:
        require_non_negative("scale", scale)
        super().__init__(
            condition, scale, mu=0, rho_schedule="constant", clip=clip, guide_clipped=guide_clipped, **interval
        )
        self.scale = scale
