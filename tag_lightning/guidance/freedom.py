"""Training-free guidance by an energy, each step taken several times."""

from __future__ import annotations

from typing import Any

from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import Conditions
from tag_lightning.guidance.tfg import TFG


class FreeDoM(TFG):
    """FreeDoM (Yu et al. 2023, arXiv 2303.09833) as TFG's paper places it: DPS with a schedule and recurrence.

    ``x_{t-1} <- x_{t-1} + rho_t * sqrt(a' / a) * grad_{x_t} log p(c | x0_hat(x_t))`` with ``rho_t`` proportional to
    ``a / a'`` and of mean ``scale``, then noise back to ``t`` and the step again, ``recurrence`` times in all.

    Args:
        condition: See ``ConditionedGuidance``.
        scale: Mean guidance scale, at least 0.
        recurrence: Number of times each step is taken.
        clip: See ``TFG``.
        guide_clipped: See ``TFG``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: See ``TFG``.
    """

    cost = "denoiser r / r, guide r / r"

    def __init__(
        self,
        condition: Conditions = None,
        scale: float = 1.0,
        recurrence: int = 2,
        clip: float | None = None,
        guide_clipped: bool = False,
        **interval: Any,
    ) -> None:
        require_non_negative("scale", scale)
        super().__init__(condition, scale, 0, clip=clip, guide_clipped=guide_clipped, recurrence=recurrence, **interval)
