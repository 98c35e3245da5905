"""Measurements: linear, adjoint to their own backward pass, and equal to independent formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from torch import Tensor

from tag_lightning.diffusion import SampleNoise
from tag_lightning.measurements import GaussianBlur, Inpainting, Measurement, SuperResolution

SHAPE = (3, 16, 12)
OPERATORS: list[Measurement] = [GaussianBlur(1.3), GaussianBlur(0.3), SuperResolution(4), SuperResolution(2)]
OPERATORS += [Inpainting(0.7)]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bound(operator: Measurement, count: int = 2, seed: int = 0) -> Measurement:
    return operator.for_samples(SHAPE, range(count), seed)


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_the_backward_pass_is_the_adjoint(operator: Measurement) -> None:
    """``<A x, y> = <x, A^T y>`` with ``A^T y`` the gradient of ``<A u, y>`` at any other point u."""
    operator, x = bound(operator), images(2, *SHAPE)
    y = torch.randn_like(operator(x))
    elsewhere = images(2, *SHAPE, seed=1).requires_grad_()
    (adjoint,) = torch.autograd.grad((operator(elsewhere) * y).sum(), elsewhere)
    torch.testing.assert_close((operator(x) * y).sum(), (x * adjoint).sum(), rtol=1e-10, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(a=st.floats(-5, 5), b=st.floats(-5, 5), which=st.integers(0, len(OPERATORS) - 1))
def test_they_are_linear(a: float, b: float, which: int) -> None:
    operator, x, z = bound(OPERATORS[which]), images(2, *SHAPE), images(2, *SHAPE, seed=1)
    torch.testing.assert_close(operator(a * x + b * z), a * operator(x) + b * operator(z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operator", [GaussianBlur(1.3), SuperResolution(4)], ids=repr)
def test_a_constant_image_stays_constant(operator: Measurement) -> None:
    measured = operator(torch.full((1, *SHAPE), 0.3))
    torch.testing.assert_close(measured, torch.full_like(measured, 0.3), atol=1e-5, rtol=0)


def test_blur_is_scipys_correlation_with_the_same_kernel() -> None:
    std, x = 1.3, images(1, *SHAPE)
    operator = GaussianBlur(std)
    reach = operator.kernel_size(SHAPE) // 2
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
    expected = x[0].numpy()
    for axis in (1, 2):
        expected = correlate1d(expected, weights / weights.sum(), axis=axis, mode="mirror")
    np.testing.assert_allclose(operator(x)[0], expected, atol=1e-12)


def test_the_kernel_is_that_of_dps_at_256_and_fits_small_images() -> None:
    assert GaussianBlur().kernel_size((3, 256, 256)) == 61
    assert GaussianBlur().kernel_size((3, 16, 12)) == 23
    assert GaussianBlur(1.0).kernel_size((3, 64, 64)) == 21
    assert GaussianBlur()(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_a_reduced_image_is_pillows_bicubic_one() -> None:
    from PIL import Image

    x = images(1, 1, 16, 12).float()
    expected = Image.fromarray(x[0, 0].numpy()).resize((3, 4), Image.Resampling.BICUBIC)
    torch.testing.assert_close(SuperResolution(4)(x)[0, 0], torch.from_numpy(np.array(expected)), atol=1e-5, rtol=0)


def test_missing_pixels_are_those_of_the_seed_and_the_image_alone() -> None:
    operator = Inpainting(0.7)
    first, second = (operator.for_samples(SHAPE, indices, 3) for indices in ([0, 5, 9], [5]))
    ones = torch.ones(3, *SHAPE)
    masks = first(ones)
    assert torch.equal(masks[1:2], second(ones[:1]))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks, operator.for_samples(SHAPE, [0, 5, 9], 4)(ones))
    assert torch.equal(masks, masks[:, :1].expand(-1, 3, -1, -1)), "all channels of a pixel together"
    assert (masks[:, 0].sum((1, 2)) == 16 * 12 - round(0.7 * 16 * 12)).all()
    assert torch.equal(first(masks), masks), "a projection"


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_noise_has_its_standard_deviation_where_something_is_measured(operator: Measurement) -> None:
    operator, x = bound(operator, 40), images(40, *SHAPE).float()
    added = operator.measure(x, SampleNoise(0, range(40), 3)) - operator(x)
    seen = operator(torch.ones_like(x)) != 0
    assert added[seen].std() == pytest.approx(0.05, rel=0.05)
    assert not added[~seen].any()


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_the_condition_is_the_distance_of_the_measurements(operator: Measurement) -> None:
    operator, x = bound(operator), images(2, *SHAPE).float()
    y = operator(x) + 0.5
    expected = -torch.full((2,), 0.5) * y[0].numel() ** 0.5
    torch.testing.assert_close(operator.condition(y, SHAPE).log_likelihood(x), expected)


def test_impossible_settings_and_shapes_are_refused() -> None:
    for build, message in [
        (lambda: GaussianBlur(0.0), "std must be a finite number of pixels above 0"),
        (lambda: GaussianBlur(noise=-1.0), "noise must be a finite number of at least 0"),
        (lambda: SuperResolution(1), "factor must be at least 2"),
        (lambda: Inpainting(1.0), "missing must be a share"),
        (lambda: SuperResolution(5).require_shape(SHAPE), "factor 5 does not divide the height and width"),
        (lambda: GaussianBlur().require_shape((4, 29)), r"measures images \[C, H, W\], got samples \[4, 29\]"),
        (lambda: Inpainting()(torch.zeros(1, *SHAPE)), "has no masks yet"),
        (lambda: bound(Inpainting())(torch.zeros(3, *SHAPE)), "do not fit images"),
        (
            lambda: SuperResolution(4).condition(torch.zeros(2, 3, 1, 1), SHAPE),
            r"gives measurements \[2, 3, 4, 3\], but they have the shape \[2, 3, 1, 1\]",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize(
    ("operator", "share"), [(GaussianBlur(1.3), 1.0), (SuperResolution(4), 1 / 16), (Inpainting(0.75), 0.25)], ids=repr
)
def test_a_condition_knows_how_much_was_measured(operator: Measurement, share: float) -> None:
    operator, x = bound(operator), images(2, *SHAPE).float()
    condition = operator.condition(operator.measure(x, SampleNoise(0, range(2), 1)), SHAPE)
    assert condition.num_measured == share * x[0].numel()
