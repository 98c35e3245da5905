"""Steps whose length follows from whether the guidance agrees with itself."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from tag_lightning.diffusion import Proposal, Step
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.spherical import unit
from tag_lightning.guidance.trust_region import FixedLengthSteps


class _Memory(NamedTuple):
    """The latest direction ``[B, ...]``, and its length by the exponent of ``growth``, ``[B]``."""

    direction: Tensor
    exponent: Tensor


class AdaptiveLengthSteps(FixedLengthSteps):
    """``FixedLengthSteps`` that finds the length of its moves while it samples, per sample.

    A move becomes ``growth`` times as long as the one before if both directions are at an acute angle, and shorter by
    the same factor if they are at an obtuse one: steps that are too short go on in one direction, steps that are too
    long turn back. This is the rule of Rprop (Riedmiller and Braun 1993) for the length of the whole move instead of
    each coordinate's; hypergradient descent (Baydin et al. 2018, arXiv 1703.04782, Section 4) follows the cosine
    instead of its sign.

    Args:
        guidance: See ``MoveWrapper``.
        kappa: Length of the first move as a fraction of the noise, above 0; None is 0.75 over the run's number of
            steps.
        growth: Factor from one move to the next, above 1.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If a number is out of range, or ``guidance`` does not move the proposal's mean.
    """

    def __init__(
        self,
        guidance: ConditionedGuidance,
        kappa: float | None = None,
        growth: float = 1.2,
        **interval: Any,
    ) -> None:
        super().__init__(guidance, kappa, **interval)
        if not 1 < growth < math.inf:
            raise ValueError(f"growth must be a finite number above 1, got {growth}")
        self.growth = growth

    def changed(self, move: Tensor, proposal: Proposal, step: Step) -> Tensor:
        direction, known = unit(move), step.state.get("latest")
        exponent = move.new_zeros(len(move)) if known is None else known.exponent
        if known is not None:
            exponent = exponent + (known.direction * direction).flatten(1).sum(1).sign()
        step.state["latest"] = _Memory(direction, exponent)
        return super().changed(move, proposal, step)

    def longest(self, noise_power: float, step: Step) -> Tensor:
        known = step.state.get("latest")
        return super().longest(noise_power, step) * (1.0 if known is None else self.growth**known.exponent)
