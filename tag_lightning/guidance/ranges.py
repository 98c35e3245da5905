"""Ranges and inequalities as conditions: a quantity at least, at most, or between."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import on_device
from tag_lightning.guidance.conditions import Condition


class Hinge:
    """Squared distance of a quantity from an interval, in units of its spread; zero, and so without gradient, inside.

    Args:
        spread: Unit of the distance, in the unit of the quantity, above 0.
    """

    def __init__(self, spread: Tensor | float = 1.0) -> None:
        self.spread = torch.as_tensor(spread)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """``[B]`` for quantities ``output [B]`` and bounds ``target [B, 2]``, which may be infinite."""
        lower, upper = target.to(output).unbind(1)
        return (_distance(output, lower, upper) / on_device(self.spread, output.device, output.dtype)).square()


@dataclass(frozen=True)
class Range:
    """An interval that a quantity should lie in.

    Attributes:
        at_least: Lower bound in the unit of the quantity; None is unbounded.
        at_most: Upper bound; None is unbounded.

    Raises:
        ValueError: If there is no bound, one is not finite, or no number lies between them.
    """

    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        given = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if not given:
            raise ValueError("a range needs at_least, at_most, or both, got neither")
        if not all(math.isfinite(bound) for bound in given):
            raise ValueError(f"the bounds of a range must be finite numbers, or null for none, got {given}")
        if len(given) == 2 and given[0] > given[1]:
            raise ValueError(f"at_least is {given[0]} and at_most {given[1]}: no number lies between; exchange them")

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound, infinite where there is none."""
        lower = -math.inf if self.at_least is None else self.at_least
        return lower, math.inf if self.at_most is None else self.at_most

    def distance(self, values: Tensor) -> Tensor:
        """Distance of each of ``values`` from the interval, 0 inside; NaN stays NaN."""
        return _distance(values, *self.bounds)

    def condition(self, predictor: nn.Module, num_samples: int, spread: Tensor | float = 1.0) -> Condition:
        """The condition that a predicted quantity lies in this range, by the squared ``Hinge``.

        Args:
            predictor: ``[B, ...] -> [B]``, the quantity of clean samples.
            num_samples: B.
            spread: See ``Hinge``.
        """
        return Condition(predictor, torch.tensor(self.bounds).expand(num_samples, 2), Hinge(spread))

    def __str__(self) -> str:
        if self.at_least is None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_most is None else f"{self.at_least:g} to {self.at_most:g}"


def _distance(values: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    return (lower - values).clamp(min=0) + (values - upper).clamp(min=0)
