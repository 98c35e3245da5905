"""Ranges and inequalities: a hinge on a quantity."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tag_lightning.guidance import Condition, Hinge, JointCondition, Range

NUMBERS = st.floats(-1e3, 1e3)


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


@given(value=NUMBERS, first=NUMBERS, second=NUMBERS)
def test_the_distance_is_that_to_the_nearest_number_inside(value: float, first: float, second: float) -> None:
    lower, upper = sorted((first, second))
    values = torch.tensor([value], dtype=torch.float64)
    assert float(Range(lower, upper).distance(values)) == abs(value - min(max(value, lower), upper))
    assert float(Range(at_least=lower).distance(values)) == max(0.0, lower - value)
    assert float(Range(at_most=upper).distance(values)) == max(0.0, value - upper)


@pytest.mark.parametrize(
    ("wished", "expected"),
    [(Range(1.0, 2.0), [-4.0, 0.0, -0.25]), (Range(at_least=1.0), [-4.0, 0, 0]), (Range(at_most=2.0), [0, 0, -0.25])],
)
def test_the_condition_is_a_squared_hinge_in_units_of_the_spread(wished: Range, expected: list[float]) -> None:
    x0 = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [2.0, 0.5]], dtype=torch.float64)
    condition = wished.condition(Total(), 3, spread=torch.tensor(1.0))
    torch.testing.assert_close(condition.log_likelihood(x0), torch.tensor(expected, dtype=torch.float64))
    halved = wished.condition(Total(), 3, spread=2.0)
    torch.testing.assert_close(halved.log_likelihood(x0), torch.tensor(expected, dtype=torch.float64) / 4)


def test_the_gradient_is_that_of_finite_differences_and_vanishes_inside() -> None:
    x0 = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [2.0, 0.75]], dtype=torch.float64, requires_grad=True)
    condition = Range(1.0, 2.0).condition(Total(), 3)
    assert torch.autograd.gradcheck(lambda x: condition.log_likelihood(x), x0)
    (gradient,) = torch.autograd.grad(condition.log_likelihood(x0).sum(), x0)
    assert gradient.tolist() == [[4.0, 4.0], [0.0, 0.0], [-1.5, -1.5]]
    one_sided = Range(at_least=1.0).condition(Total(), 3)
    (gradient,) = torch.autograd.grad(one_sided.log_likelihood(x0).sum(), x0)
    assert gradient.tolist() == [[4.0, 4.0], [0.0, 0.0], [0.0, 0.0]], "an infinite bound leaves no NaN"


def test_a_range_joins_other_conditions() -> None:
    x0 = torch.tensor([[3.0, 0.0]])
    ranged = Range(at_most=1.0).condition(Total(), 1)
    other = Condition(Total(), torch.tensor([[5.0, math.inf]]), Hinge())
    assert JointCondition([ranged, other]).log_likelihood(x0).tolist() == [-8.0]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "a range needs at_least, at_most, or both, got neither"),
        ({"at_least": 2.0, "at_most": 1.0}, r"at_least is 2\.0 and at_most 1\.0: no number lies between"),
        ({"at_least": math.nan}, "must be finite numbers"),
        ({"at_most": math.inf}, "must be finite numbers"),
    ],
)
def test_impossible_ranges_are_refused(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Range(**bounds)
