"""Guidance on the sphere where unguided samples concentrate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import Guidance, Prediction, Proposal, Step, per_sample
from tag_lightning.guidance.conditions import ConditionedGuidance, Conditions


class DSG(ConditionedGuidance):
    """Diffusion with spherical Gaussian constraint (Yang et al. 2024, arXiv 2402.03201, Algorithm 1).

    With the solver's mean ``m`` and standard deviation ``sigma``, ``n`` degrees of freedom and ``r = sqrt(n) sigma``,
    the next sample lies at distance ``r`` from ``m``, in a direction between the random one ``d`` and that of the
    gradient ``d* = r g / |g|``: ``m + r v / |v|`` with ``v = d + weight (d* - d)``.

    Args:
        condition: See ``ConditionedGuidance``.
        weight: ``g_r`` in [0, 1]; 0 keeps the random direction, 1 follows the gradient alone.
        every: Acts at every so many steps, at least 1.
        guide_clipped: See ``TFG``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``weight`` is outside [0, 1] or ``every`` below 1; with a solver that draws no noise, when the
            sampler is made.
    """

    needs_noise = True

    def __init__(
        self,
        condition: Conditions = None,
        weight: float = 0.1,
        every: int = 1,
        guide_clipped: bool = False,
        **interval: Any,
    ) -> None:
        super().__init__(condition, **interval)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], got {weight}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.weight = weight
        self.every = every
        self.guide_clipped = guide_clipped

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        for other in before:
            if other.needs_noise:
                raise ValueError(
                    f"{type(other.innermost).__name__} and {type(self).__name__} both choose the noise of the same "
                    "steps, and the later would undo the earlier; keep one, or give them intervals (start, stop) that "
                    "do not overlap"
                )

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        if proposal.std == 0 or step.index % self.every:  # the step that ends at the data has no sphere
            return proposal
        radius = step.space.degrees_of_freedom.sqrt()
        gradient = unit(self.gradient(x, prediction, step))
        mixed = (1 - self.weight) * proposal.noise + self.weight * per_sample(radius, x) * gradient
        return proposal._replace(noise=per_sample(radius, x) * unit(mixed))


def unit(directions: Tensor) -> Tensor:
    """``directions [B, ...]`` at length 1 per sample, however short or long they are; zero stays zero."""
    # The squares of a gradient of 1e-25 are zero in float32. A power of two brings them into range without rounding.
    largest = directions.flatten(1).abs().amax(1)
    smallest = round(math.log2(torch.finfo(directions.dtype).tiny)) + 1  # whose inverse is still finite
    power = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent.clamp(min=smallest))
    scaled = directions * per_sample(power, directions)
    lengths = scaled.flatten(1).norm(dim=1)
    return scaled * per_sample(1 / torch.where(lengths > 0, lengths, 1), directions)
