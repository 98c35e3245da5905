"""Which of the questions that guidance asks within one step are about the same samples."""

from __future__ import annotations

from torch import Tensor


def same_samples(x: Tensor, other: Tensor) -> bool:
    """True if ``x`` and ``other``, both ``[B, ...]``, are one batch in memory, with a graph or without.

    Two copies of equal values are not: comparing values would wait for the device.
    """
    return x.data_ptr() == other.data_ptr() and x.shape == other.shape


def same_timestep(timestep: Tensor | int, other: Tensor | int) -> bool:
    """True if both are one number, or one tensor of a timestep per sample."""
    return timestep is other or (isinstance(timestep, int) and isinstance(other, int) and timestep == other)
