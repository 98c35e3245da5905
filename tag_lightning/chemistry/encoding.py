"""Encoding of molecules as tensors for networks, and decoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FARTHEST = 1e6


@dataclass(frozen=True)
class MoleculeEncoding:
    """Atomic numbers and positions as one tensor ``[B, N, 3 + F]``: positions in angstrom, then one-hot elements.

    Attributes:
        elements: Atomic number of each one-hot column.
        feature_scale: One-hot columns are divided by it, so that noise hides elements later than positions
            (Hoogeboom et al. 2022, App. C).
        charge_scale: Divisor of the atomic number in a last column, as EDM's published networks need it; None leaves
            the column out. Decoding ignores the column, as EDM does.
    """

    elements: tuple[int, ...]
    feature_scale: float = 4.0
    charge_scale: float | None = None

    @property
    def num_features(self) -> int:
        """F, the number of feature columns."""
        return len(self.elements) + (self.charge_scale is not None)

    def encode(self, numbers: Tensor, positions: Tensor) -> Tensor:
        """Samples ``[B, N, 3 + F]`` of atomic numbers ``[B, N]`` (0 is padding) and positions ``[B, N, 3]``."""
        return torch.cat((positions, self.features(numbers).to(positions)), -1)

    def features(self, numbers: Tensor) -> Tensor:
        """The feature columns ``[..., F]`` of atomic numbers ``[...]``; zero for padding and unknown elements."""
        elements = torch.tensor(self.elements, device=numbers.device)
        columns = (numbers[..., None] == elements).float() / self.feature_scale
        if self.charge_scale is None:
            return columns
        return torch.cat((columns, numbers[..., None].float() / self.charge_scale), -1)

    def decode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Atomic numbers and positions of samples; the element of an atom is the largest of its columns.

        Args:
            x: ``[B, N, 3 + F]``.
            mask: True at atoms, ``[B, N]``.

        Returns:
            Atomic numbers ``[B, N]``, 0 for padding, and positions ``[B, N, 3]`` in angstrom. If any number of a
            molecule is NaN, infinite or beyond 1e6, all its positions are NaN, so that everything computed from
            positions sees that the molecule is lost.
        """
        elements = torch.tensor(self.elements, device=x.device)
        # Squares of far larger numbers overflow, and a judge's NaN would go uncounted.
        lost = ~(x.abs() < _FARTHEST).flatten(1).all(1)[:, None, None] & mask[..., None]
        atoms = elements[x[..., 3 : 3 + len(elements)].argmax(-1)]
        return torch.where(mask, atoms, 0), x[..., :3].masked_fill(lost, torch.nan)
