"""Loss-guided diffusion."""

from __future__ import annotations

from typing import Any

from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import Conditions
from tag_lightning.guidance.tfg import TFG


class LGD(TFG):
    """Loss-guided diffusion (Song et al. 2023, ICML): DPS with a Monte-Carlo smoothed likelihood.

    ``x_{t-1} <- x_{t-1} + scale * sqrt(a' / a) * grad_{x_t} log mean_k p(c | x0_k)`` with
    ``x0_k = x0_hat(x_t) + gamma * sqrt(1 - a) * noise_k``. At ``gamma = 1`` the variance of ``x0`` given ``x_t`` is
    ``1 - a``, the form that its authors propose for data of unit variance.

    Args:
        condition: See ``ConditionedGuidance``.
        scale: Guidance scale, at least 0.
        num_draws: Noise draws, at least 1.
        gamma: See ``TFG``.
        clip: See ``TFG``.
        guide_clipped: See ``TFG``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: See ``TFG``.
    """

    cost = "denoiser 1 / 1, guide K / K"

    def __init__(
        self,
        condition: Conditions = None,
        scale: float = 1.0,
        num_draws: int = 10,
        gamma: float = 1.0,
        clip: float | None = None,
        guide_clipped: bool = False,
        **interval: Any,
    ) -> None:
        require_non_negative("scale", scale)
        super().__init__(
            condition,
            scale,
            0,
            gamma,
            num_draws,
            rho_schedule="constant",
            clip=clip,
            guide_clipped=guide_clipped,
            **interval,
        )
