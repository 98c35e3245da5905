"""Envelopes and their mean log-ratio, on curves whose answer is known and on all others by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tag_lightning.evaluation.envelope import Curve, cost_at, dominates, envelope, mean_log_ratio, shared_range

COORDINATES = st.floats(-5, 5).map(lambda value: round(value, 3))
CURVES = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=8).map(lambda points: curve(*points))


def curve(*points: tuple[float, float]) -> Curve:
    table = np.array(points, dtype=float)
    return Curve(table[:, 0], table[:, 1])


def exponential(rate: float, factor: float, alignment: np.ndarray) -> Curve:
    """A curve ``cost = factor * exp(rate * alignment)``, linear in log cost."""
    return Curve(alignment, math.log(factor) + rate * alignment)


def test_parallel_curves_differ_by_the_logarithm_of_their_factor() -> None:
    first = exponential(2.0, 3.0, np.array([0.1, 0.5, 0.9]))
    second = exponential(2.0, 1.5, np.array([0.2, 0.3, 0.8]))
    assert shared_range(first, second) == (0.2, 0.8)
    assert mean_log_ratio(first, second) == pytest.approx(math.log(0.5), rel=1e-12)


def test_the_mean_of_a_linear_difference_is_its_value_in_the_middle() -> None:
    first = exponential(1.0, 1.0, np.array([0.0, 1.0]))
    second = exponential(3.0, 1.0, np.array([0.0, 0.25, 1.0]))
    assert mean_log_ratio(first, second) == pytest.approx(1.0, rel=1e-12)


def test_a_bent_curve_is_integrated_exactly() -> None:
    flat = curve((0, 0), (1, 1e-9))
    bent = curve((0, 0), (0.25, 0), (1, 3))  # (0, 0) and (0.25, 0): the second stands for both
    assert mean_log_ratio(flat, bent) == pytest.approx(0.5 * 0.75 * 3, abs=1e-6)


def test_less_alignment_than_the_cheapest_point_costs_no_more_than_that_point() -> None:
    rising_and_falling = curve((0.2, 5), (0.9, 1), (0.95, 2))
    assert cost_at(rising_and_falling, np.array([0.2, 0.5, 0.9, 0.925])) == pytest.approx([1, 1, 1, 1.5])


def test_a_single_shared_alignment_gives_the_ratio_there() -> None:
    assert mean_log_ratio(curve((0, 0), (1, 2)), curve((0.5, 4))) == pytest.approx(3)


def test_curves_that_do_not_meet_have_no_ratio() -> None:
    low, high = curve((0, 0), (1, 1)), curve((2, 0), (3, 1))
    empty = Curve(np.zeros(0), np.zeros(0))
    assert shared_range(low, high) is None
    assert mean_log_ratio(low, high) is mean_log_ratio(low, empty) is None
    assert dominates(high, low)
    assert not dominates(low, high)


@given(CURVES)
def test_an_envelope_rises_and_lies_below_every_point(points: Curve) -> None:
    least = envelope(points)
    assert (np.diff(least.alignment) > 0).all()
    assert (np.diff(least.log_cost) > 0).all()
    assert (cost_at(points, points.alignment) <= points.log_cost + 1e-9).all()
    assert least.alignment.max() == points.alignment.max()
    assert least.log_cost.min() == points.log_cost.min()
    assert dominates(least, points)


@given(CURVES, st.randoms())
def test_the_order_of_points_and_points_that_others_beat_do_not_matter(points: Curve, random: object) -> None:
    order = list(range(len(points.alignment)))
    random.shuffle(order)  # type: ignore[attr-defined]
    worse = Curve(np.append(points.alignment[order], points.alignment[0]), np.append(points.log_cost[order], 9.0))
    for found, expected in zip(envelope(worse), envelope(points), strict=True):
        assert found.tolist() == expected.tolist()


@given(CURVES, CURVES, st.floats(-3, 3))
def test_ratios_change_sign_with_the_order_and_shift_with_the_cost(first: Curve, second: Curve, shift: float) -> None:
    ratio = mean_log_ratio(first, second)
    assert mean_log_ratio(first, first) == 0
    moved = mean_log_ratio(first, second._replace(log_cost=second.log_cost + shift))
    if ratio is None:
        assert shared_range(first, second) is moved is None
        return
    assert mean_log_ratio(second, first) == pytest.approx(-ratio, abs=1e-9)
    assert moved == pytest.approx(ratio + shift, abs=1e-9)


@given(CURVES)
def test_a_curve_dominates_itself_and_its_worse_copy(points: Curve) -> None:
    worse = Curve(points.alignment - 1, points.log_cost + 1)
    assert dominates(points, points)
    assert dominates(points, worse)
    assert not dominates(worse, points)
