"""Measurements of waveforms: missing intervals and clipping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tag_lightning.diffusion import SampleNoise
from tag_lightning.measurements import Clipping, MissingIntervals

SHAPE = (1, 50)


def waveforms(count: int = 3, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def runs(mask: Tensor) -> int:
    """Number of intervals of False."""
    return int((torch.diff(mask.int(), prepend=torch.ones(1, dtype=torch.int)) == -1).sum())


@settings(max_examples=50, deadline=None)
@given(length=st.integers(8, 80), missing=st.floats(0.2, 0.9), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_missing_intervals_have_their_length_and_number(length: int, missing: float, count: int, seed: int) -> None:
    operator = MissingIntervals(missing, count)
    total = round(missing * length)
    if total < count:
        return
    operator.require_shape((1, length))
    mask = operator.for_samples((1, length), range(5), seed)(torch.ones(5, 1, length))[:, 0].bool()
    assert ((~mask).sum(1) == total).all()
    # Neighbours without a known sample in between look like one.
    assert all(1 <= runs(row) <= count for row in mask)
    for row in mask:
        lengths = np.diff(np.flatnonzero(np.diff(np.r_[1, row.int().numpy(), 1])))[::2]
        assert all(n >= total // count for n in lengths)


def test_masks_follow_from_seed_and_index_alone_and_masking_is_its_own_projection_and_adjoint() -> None:
    operator = MissingIntervals(0.3, 2)
    together, alone = (operator.for_samples(SHAPE, indices, 3) for indices in ([0, 7, 4], [7]))
    ones = torch.ones(3, *SHAPE, dtype=torch.float64)
    assert torch.equal(together(ones)[1:2], alone(ones[:1]))
    assert len(together(ones).unique(dim=0)) == 3
    assert not torch.equal(operator.for_samples(SHAPE, [0, 7, 4], 4)(ones), together(ones))
    x, y = waveforms(), waveforms(seed=1)
    assert torch.equal(together(together(x)), together(x))
    torch.testing.assert_close((together(x) * y).sum(), (x * together(y)).sum())
    added = together.measure(x, SampleNoise(0, range(3), 3)) - together(x)
    assert not added[~together(ones).bool()].any()


def test_an_interval_is_anywhere() -> None:
    """Over many samples every place is missing as often as an interval that lies uniformly covers it."""
    masks = MissingIntervals(0.25).for_samples((1, 8), range(4000), 0)(torch.ones(4000, 1, 8))
    expected = 1 - torch.tensor([1, 2, 2, 2, 2, 2, 2, 1]) / 7
    torch.testing.assert_close(masks.mean((0, 1)), expected, atol=0.03, rtol=0)


@settings(max_examples=30, deadline=None)
@given(limit=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_clipping_cuts_off_what_is_beyond_its_limit(limit: float, seed: int) -> None:
    operator, x = Clipping(limit), waveforms(seed=seed).requires_grad_()
    clipped = operator(x)
    np.testing.assert_array_equal(clipped.detach().numpy(), np.clip(x.detach().numpy(), -limit, limit))
    assert torch.equal(operator(clipped), clipped)
    (gradient,) = torch.autograd.grad(clipped.sum(), x)
    assert torch.equal(gradient, (x.abs() <= limit).double())


@pytest.mark.parametrize("operator", [Clipping(0.4), MissingIntervals()], ids=["clipping", "missing intervals"])
def test_the_condition_is_the_distance_of_the_measurements(operator: Clipping | MissingIntervals) -> None:
    bound, x = operator.for_samples(SHAPE, range(3), 0), waveforms().float()
    condition = bound.condition(bound(x) + 0.5, SHAPE)
    torch.testing.assert_close(condition.log_likelihood(x), torch.full((3,), -0.5 * 50**0.5))


def test_impossible_settings_and_shapes_are_refused() -> None:
    for build, message in [
        (lambda: Clipping(0.0), "limit must lie between 0 and 1"),
        (lambda: Clipping(1.0), "limit must lie between 0 and 1"),
        (lambda: Clipping(noise=-1.0), "noise must be a finite number"),
        (lambda: MissingIntervals(0.0), "missing must be a share"),
        (lambda: MissingIntervals(count=0), "count must be at least 1 interval"),
        (lambda: MissingIntervals(0.1, 9).require_shape((1, 50)), "9 intervals do not fit into 0.1 of waveforms of 50"),
        (lambda: Clipping().require_shape((3, 8, 8)), r"measures waveforms \[C, L\], got samples \[3, 8, 8\]"),
        (lambda: MissingIntervals().require_shape((8,)), r"measures waveforms \[C, L\]"),
        (lambda: MissingIntervals()(torch.zeros(1, 1, 8)), "MissingIntervals has no masks yet.* the waveforms' shape"),
        (
            lambda: MissingIntervals().for_samples(SHAPE, [0], 0)(torch.zeros(1, 1, 8)),
            r"masks \[1, 1, 50\] do not fit waveforms \[1, 1, 8\]",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
