"""Directions of gradients of every size and precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tag_lightning.guidance.spherical import unit


@given(st.integers(-149, 127), st.floats(-1, 1), st.floats(-1, 1))
def test_directions_have_length_one_at_every_size_that_a_number_can_have(power: int, x: float, y: float) -> None:
    direction = torch.tensor([[x, y]]) * 2.0**power
    expected = 1.0 if direction.any() else 0.0
    assert unit(direction).norm() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(unit(direction.double()).float(), unit(direction))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("extreme", ["tiny", "max", "smallest_normal"])
def test_directions_have_length_one_at_the_ends_of_every_precision(dtype: torch.dtype, extreme: str) -> None:
    size = getattr(torch.finfo(dtype), extreme) * (2**-3 if extreme == "tiny" else 0.5)
    direction = unit(torch.tensor([[3.0, 4.0], [0.0, -1.0]], dtype=dtype) * torch.tensor(size / 4, dtype=dtype))
    expected = torch.tensor([[0.6, 0.8], [0.0, -1.0]], dtype=dtype)
    torch.testing.assert_close(direction, expected, rtol=0, atol=0.15 if dtype == torch.bfloat16 else 0.01)
