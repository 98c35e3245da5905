"""Steps whose length follows from whether the guidance agrees with itself."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from tag_lightning.diffusion import Proposal, Step
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.spherical import unit
from tag_lightning.guidance.trust_region import FixedLengthSteps


class _Memory(NamedTuple):
    """The latest direction ``[B, ...]`` and the logarithm of its length in units of the first, ``[B]``."""

    direction: Tensor
    log_length: Tensor


class AdaptiveLengthSteps(FixedLengthSteps):
    """``FixedLengthSteps`` that finds the length of its moves while it samples, per sample.

    A move is ``exp(rate c)`` times as long as the one before, with the cosine ``c`` of the angle between them: steps
    that are too short go on in one direction and grow, steps that are too long turn back and shrink. That is the
    multiplicative rule of hypergradient descent (Baydin et al. 2018, arXiv 1703.04782, Section 4) with directions in
    place of gradients. ``growth`` bounds the factor, without which guidance whose steps agree from the first, as on
    small images, overshoots in the second.

    Args:
        guidance: See ``MoveWrapper``.
        kappa: Length of the first move as a fraction of the noise, above 0; None is 0.75 over the run's number of
            steps.
        rate: How fast the length follows the cosine, at least 0; 0 keeps it.
        growth: Largest factor from one move to the next, and the inverse of the smallest, above 1.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If a number is out of range, or ``guidance`` does not move the proposal's mean.
    """

    def __init__(
        self,
        guidance: ConditionedGuidance,
        kappa: float | None = None,
        rate: float = 3.0,
        growth: float = 2.0,
        **interval: Any,
    ) -> None:
        super().__init__(guidance, kappa, **interval)
        require_non_negative("rate", rate)
        if not 1 < growth < math.inf:
            raise ValueError(f"growth must be a finite number above 1, got {growth}")
        self.rate, self.growth = rate, growth

    def changed(self, move: Tensor, proposal: Proposal, step: Step) -> Tensor:
        direction, known = unit(move), step.state.get("latest")
        log_length = move.new_zeros(len(move))
        if known is not None:
            cosine = (known.direction * direction).flatten(1).sum(1)
            most = math.log(self.growth)
            log_length = known.log_length + (self.rate * cosine).clamp(-most, most)
        step.state["latest"] = _Memory(direction, log_length)
        return super().changed(move, proposal, step)

    def longest(self, noise_power: float, step: Step) -> Tensor:
        known = step.state.get("latest")
        return super().longest(noise_power, step) * (1.0 if known is None else known.log_length.exp())
