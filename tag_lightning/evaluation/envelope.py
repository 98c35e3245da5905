"""Envelopes of curves that trade cost for alignment, and their distance at equal alignment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Points of a sweep, in any order.

    Attributes:
        alignment: Larger is better, ``[K]``.
        log_cost: Logarithm of a cost, smaller is better, ``[K]``.
    """

    alignment: np.ndarray
    log_cost: np.ndarray


def envelope(curve: Curve) -> Curve:
    """The points that no other point beats in both respects, in order of rising alignment and rising cost.

    Between them the envelope is linear. To the left of the first it is constant: asking for less alignment than
    that point has may take that point.
    """
    order = np.lexsort((curve.log_cost, -curve.alignment))  # from the best alignment down, ties by cost
    cost = curve.log_cost[order]
    cheaper = np.concatenate([[np.inf], np.minimum.accumulate(cost)[:-1]]) > cost
    kept = order[cheaper][::-1]
    return Curve(curve.alignment[kept], curve.log_cost[kept])


def cost_at(curve: Curve, alignment: np.ndarray) -> np.ndarray:
    """Logarithm of the least cost at these alignments by the envelope of ``curve``; none above its best alignment."""
    least = envelope(curve)
    return np.interp(alignment, least.alignment, least.log_cost)


def shared_range(first: Curve, second: Curve) -> tuple[float, float] | None:
    """The alignments that both curves reached, from the lowest to the highest; None if there are none."""
    if not len(first.alignment) or not len(second.alignment):
        return None
    low = max(first.alignment.min(), second.alignment.min())
    high = min(first.alignment.max(), second.alignment.max())
    return (float(low), float(high)) if low <= high else None


def mean_log_ratio(first: Curve, second: Curve) -> float | None:
    """Mean over the shared range of ``log(cost of second / cost of first)`` at equal alignment.

    Exact for the piecewise linear envelopes. If the range is a single alignment, the value there.

    Returns:
        Negative if ``second`` costs less; None without a shared range.
    """
    shared = shared_range(first, second)
    if shared is None:
        return None
    low, high = shared
    knots = np.concatenate([[low, high], envelope(first).alignment, envelope(second).alignment])
    knots = np.unique(knots[(knots >= low) & (knots <= high)])
    ratio = cost_at(second, knots) - cost_at(first, knots)
    if low == high:
        return float(ratio[0])
    return float((np.diff(knots) * (ratio[1:] + ratio[:-1]) / 2).sum() / (high - low))


def dominates(first: Curve, second: Curve) -> bool:
    """True if for every point of ``second`` some point of ``first`` has no less alignment and no more cost."""
    aligned = first.alignment[:, None] >= second.alignment
    cheap = first.log_cost[:, None] <= second.log_cost
    return bool(len(second.alignment)) and bool((aligned & cheap).any(0).all())
