"""The contract of a measurement."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import SampleNoise
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance import Condition, residual_norm


class Measurement(nn.Module, ABC):
    """A measurement ``y = A x + noise * n`` of samples, ``n`` standard normal; ``A`` is linear except for ``Clipping``.

    A module without weights whose ``forward`` is ``A``, so that it is the predictor of a condition as it stands.

    Args:
        noise: Standard deviation of the noise, for samples in [-1, 1], at least 0.

    Attributes:
        kind: The samples that are measured, in words.
        axes: Names of the axes of one sample.

    Raises:
        ValueError: If ``noise`` is negative or not finite.
    """

    kind: str = "images"
    axes: tuple[str, ...] = ("C", "H", "W")

    def __init__(self, noise: float = 0.05) -> None:
        super().__init__()
        require_non_negative("noise", noise)
        self.noise = noise

    def require_shape(self, sample_shape: Sequence[int]) -> None:
        """Check that samples of this shape can be measured.

        Raises:
            ValueError: If they cannot; says why.
        """
        if len(sample_shape) != len(self.axes):
            raise ValueError(
                f"{type(self).__name__} measures {self.kind} [{', '.join(self.axes)}], got samples {list(sample_shape)}"
            )

    def for_samples(self, sample_shape: Sequence[int], indices: Sequence[int], seed: int) -> Self:
        """The operator of the samples of these global indices, for one that differs from sample to sample.

        Args:
            sample_shape: Shape of one sample.
            indices: Global indices of the batch, B of them.
            seed: Seed of the run.
        """
        return copy.copy(self)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A x`` without noise for samples ``x [B, ...]``."""

    def measure(self, x: Tensor, source: SampleNoise) -> Tensor:
        """Noisy measurements of samples ``x [B, ...]``, the noise drawn from ``source``."""
        with torch.no_grad():
            clean = self(x)
            noise = source.batch(clean.shape[1:]).to(clean)
            return clean + self.noise * self.visible(noise)

    def condition(self, y: Tensor, sample_shape: Sequence[int]) -> Condition:
        """The condition that samples have the measurements ``y``: ``log p(y | x0) = -|y - A x0|``.

        The loss of restoration by diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, Section 4). The
        paper steps by ``zeta / |r| grad |r|^2 = 2 zeta grad |r|`` with ``r = y - A x0_hat``; ``DPS(scale)`` steps by
        ``scale grad |r|`` times the factor of its docstring.

        Args:
            y: Measurements, ``[B, ...]``.
            sample_shape: Shape of one sample.

        Raises:
            ValueError: If such samples have measurements of another shape.
        """
        self.require_shape(sample_shape)
        with torch.no_grad():
            expected = self(torch.zeros(len(y), *sample_shape, device=y.device)).shape
        if y.shape != expected:
            raise ValueError(
                f"{type(self).__name__} of {self.kind} {list(sample_shape)} gives measurements {list(expected)}, but "
                f"they have the shape {list(y.shape)}; check the operator and the {self.kind}"
            )
        measured = int(self.visible(torch.ones_like(y))[0].sum())
        return Condition(self, y, residual_norm, measured)

    def visible(self, noise: Tensor) -> Tensor:
        """The part of ``noise``, in the shape of a measurement, that falls on what is measured."""
        return noise
