"""Steps whose length follows from whether the guidance agrees with itself."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tag_lightning.diffusion import Step, per_sample
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.spherical import unit
from tag_lightning.guidance.trust_region import FixedLengthSteps
from tag_lightning.guidance.wrapper import GuidanceWrapper


class _Move(NamedTuple):
    """The direction of a move ``[B, ...]``, and its length as a fraction of the noise, ``[B]``."""

    direction: Tensor
    kappa: Tensor


class _Memory(NamedTuple):
    """The moves of the step before and of the step at ``place``."""

    place: tuple[int, int]
    before: _Move | None
    latest: _Move


class AdaptiveLengthSteps(FixedLengthSteps):
    """``FixedLengthSteps`` that finds the length of its moves while it samples, per sample.

    A move is ``exp(rate c)`` times as long as the one before, with the cosine ``c`` of the angle between them: steps
    that are too short go on in one direction and grow, steps that are too long turn back and shrink. That is the
    multiplicative rule of hypergradient descent (Baydin et al. 2018, arXiv 1703.04782, Section 4) with directions in
    place of gradients. ``growth`` bounds the factor, without which guidance whose steps agree from the first, as on
    small images, overshoots in the second. Guidance that never turns back, such as a reward without a maximum, makes
    every move as long as ``max_kappa`` allows; ``FixedLengthSteps`` suits it better.

    However often other guidance asks within a step, every answer starts from the move of the step before, and the first
    one remains.

    Args:
        guidance: See ``MoveWrapper``; not another ``AdaptiveLengthSteps``.
        kappa: Length of the first move as a fraction of the noise, above 0; None is 0.75 over the run's number of
            steps.
        rate: How fast the length follows the cosine, at least 0; 0 keeps it.
        growth: Largest factor from one move to the next, and the inverse of the smallest, above 1.
        max_kappa: Longest move as a fraction of the noise, above 0.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If a number is out of range, or ``guidance`` does not move the proposal's mean or adapts the length
            already.
    """

    def __init__(
        self,
        guidance: ConditionedGuidance,
        kappa: float | None = None,
        rate: float = 3.0,
        growth: float = 2.0,
        max_kappa: float = 1.0,
        **interval: Any,
    ) -> None:
        super().__init__(guidance, kappa, **interval)
        require_non_negative("rate", rate)
        if not 1 < growth < math.inf:
            raise ValueError(f"growth must be a finite number above 1, got {growth}")
        if not 0 < max_kappa < math.inf:
            raise ValueError(f"max_kappa must be a finite number above 0, got {max_kappa}")
        if kappa is not None and kappa > max_kappa:
            raise ValueError(f"kappa {kappa} is above max_kappa {max_kappa}; raise max_kappa")
        inner = guidance
        while isinstance(inner, GuidanceWrapper):
            if isinstance(inner, AdaptiveLengthSteps):
                raise ValueError("AdaptiveLengthSteps is inside another one; the length needs one rule, keep one")
            inner = inner.guidance
        self.rate, self.growth, self.max_kappa = rate, growth, max_kappa

    def bounded(self, move: Tensor, noise_power: float, step: Step) -> Tensor:
        direction = unit(move)
        kappa = self._advanced(direction, step)
        return direction * per_sample(kappa * (step.space.degrees_of_freedom * noise_power).sqrt(), move)

    def _advanced(self, direction: Tensor, step: Step) -> Tensor:
        """The length of a move in ``direction [B, ...]`` as a fraction of the noise, ``[B]``."""
        known = step.state.get("latest")
        answered = known is not None and known.place == step.place
        before = None if known is None else known.before if answered else known.latest
        if before is None:
            kappa = torch.full_like(direction.flatten(1)[:, 0], self.kappa_of_run(step)).clamp(max=self.max_kappa)
        else:
            most = math.log(self.growth)
            cosine = (before.direction * direction).flatten(1).sum(1)
            factor = (self.rate * cosine).clamp(-most, most).exp()
            kappa = (before.kappa * factor).clamp(max=self.max_kappa)
        if not answered:
            step.state["latest"] = _Memory(step.place, before, _Move(direction, kappa))
        return kappa
