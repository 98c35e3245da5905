"""Spaces of samples: shape, noise, admissible directions, range of clean samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor


class SampleNoise:
    """Standard normal noise from one generator per sample.

    The noise of a sample depends on the seed, the stream and the sample's global index alone. It is the same in every
    batch, on every process and for every sampler.

    Args:
        seed: Non-negative seed of the run.
        indices: Global index of each sample of the batch.
        stream: Separates independent uses of noise under one seed: a new consumer with its own stream leaves the
            others as they were.
    """

    def __init__(self, seed: int, indices: Sequence[int], stream: int = 0) -> None:
        self._seed, self._indices, self._stream = seed, indices, stream

    @cached_property
    def _generators(self) -> list[np.random.Generator]:
        # Built at the first draw: constructing them for guidance that never draws would cost more than a small step.
        keys = (np.random.SeedSequence((self._seed, self._stream, i)) for i in self._indices)
        return [np.random.Generator(np.random.Philox(key=key.generate_state(2, np.uint64))) for key in keys]

    def normal(self, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """One float32 CPU tensor per sample, row ``i`` of shape ``shapes[i]``."""
        return [
            torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
            for generator, shape in zip(self._generators, shapes, strict=True)
        ]

    def integers(self, high: int) -> list[int]:
        """One integer per sample, uniform in ``0 .. high - 1``."""
        return [int(generator.integers(high)) for generator in self._generators]


class Space(ABC):
    """The space of one batch of samples.

    Attributes:
        indices: Global index of each sample, which seeds its noise.
        inputs: Keyword arguments of networks beside the sample and its timestep.
        denoiser_inputs: Further keyword arguments of the denoiser alone: the condition of each sample, as
            ``Conditioning.inputs`` makes them. Empty tells a conditional denoiser nothing.
        degrees_of_freedom: Number of independent coordinates of each sample, ``[B]``.
    """

    indices: Sequence[int]
    inputs: Mapping[str, Tensor]
    denoiser_inputs: Mapping[str, Tensor] = MappingProxyType({})
    degrees_of_freedom: Tensor

    @abstractmethod
    def noise(self, source: SampleNoise) -> Tensor:
        """Standard normal noise of this space, ``[B, ...]``, drawn from ``source``."""

    @abstractmethod
    def project(self, direction: Tensor) -> Tensor:
        """``direction [B, ...]`` without the part that leaves the space."""

    @abstractmethod
    def clip(self, x0: Tensor) -> Tensor:
        """The clean sample ``x0 [B, ...]`` inside the range of the data."""

    def decode(self, x0: Tensor) -> Tensor:
        """Clean samples ``x0 [B, ...]`` as guides see them, differentiable; other than ``x0`` in a latent space."""
        return x0

    def finished(self, x: Tensor) -> Tensor:
        """Samples ``x [B, ...]`` at the end of a run as judges and pictures see them, inside the range of the data."""
        return x


class BoxSpace(Space):
    """Samples of one fixed shape without structure, such as vectors or waveforms; values may be bounded.

    Args:
        shape: Shape of one sample.
        indices: Global index of each sample of the batch.
        device: Device of the samples.
        dtype: Floating point type of the samples.
        clip_range: Bounds of a clean sample; None leaves it unbounded.
    """

    def __init__(
        self,
        shape: Sequence[int],
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        clip_range: tuple[float, float] | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.indices = indices
        self.inputs = {}
        self.device = torch.device(device)
        self.dtype = dtype
        self.clip_range = clip_range
        self.degrees_of_freedom = torch.full((len(indices),), float(np.prod(shape)), device=device, dtype=dtype)

    def noise(self, source: SampleNoise) -> Tensor:
        rows = source.normal([self.shape] * len(self.indices))
        return _on_device(torch.stack(rows), self.device, self.dtype)

    def project(self, direction: Tensor) -> Tensor:
        return direction

    def clip(self, x0: Tensor) -> Tensor:
        return x0 if self.clip_range is None else x0.clamp(*self.clip_range)


class ImageSpace(BoxSpace):
    """Images ``[B, C, H, W]`` with values in [-1, 1].

    Args:
        shape: ``(C, H, W)`` of one image.
        indices: Global index of each image of the batch.
        device: Device of the samples.
        dtype: Floating point type of the samples.
        clip_range: Bounds of a clean image; None leaves it unbounded.
    """

    def __init__(
        self,
        shape: Sequence[int],
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        clip_range: tuple[float, float] | None = (-1.0, 1.0),
    ) -> None:
        super().__init__(shape, indices, device, dtype, clip_range)


class PointCloudSpace(Space):
    """Centred, masked point clouds with features, ``[B, N, 3 + F]``: molecules.

    Positions live in the subspace of zero centre of mass, ``3 (n - 1)`` dimensions for n points (Hoogeboom et
    al. 2022, Sec. 3.2); padding is exactly zero. Networks are given ``mask [B, N]``, True at points. Clean
    samples have no range to be clipped to.

    Args:
        sizes: Number of points of each sample.
        num_features: F, number of columns beside the three of the position.
        indices: Global index of each sample of the batch.
        device: Device of the samples.
        dtype: Floating point type of the samples.
        width: N; None is the largest of ``sizes``.

    Raises:
        ValueError: If the numbers of sizes and indices differ, or a size is outside 1 .. N.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        num_features: int,
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        width: int | None = None,
    ) -> None:
        width = max(sizes, default=0) if width is None else width
        if len(sizes) != len(indices) or not all(1 <= size <= width for size in sizes):
            raise ValueError(f"{len(indices)} samples need as many sizes in 1 .. {width}, got {list(sizes)}")
        self.sizes = tuple(sizes)
        self.num_features = num_features
        self.indices = indices
        self.width = width
        self.dtype = dtype
        counts = torch.tensor(self.sizes, device=device)
        self.mask = torch.arange(width, device=device) < counts[:, None]
        self.inputs = {"mask": self.mask}
        self.degrees_of_freedom = (3 * (counts - 1) + num_features * counts).to(dtype)

    def noise(self, source: SampleNoise) -> Tensor:
        # Drawn point by point, so that a sample's noise does not depend on the padding.
        rows = source.normal([(size, 3 + self.num_features) for size in self.sizes])
        padded = torch.zeros(len(rows), self.width, 3 + self.num_features)
        for row, values in zip(padded, rows, strict=True):
            row[: len(values)] = values
        return self.project(_on_device(padded, self.mask.device, self.dtype))

    def project(self, direction: Tensor) -> Tensor:
        return centred(direction, self.mask)

    def clip(self, x0: Tensor) -> Tensor:
        return x0


def _on_device(noise: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type == "cuda":
        noise = noise.pin_memory()  # a copy from pageable memory would wait for the GPU
    return noise.to(device, dtype, non_blocking=True)


def centred(x: Tensor, mask: Tensor) -> Tensor:
    """``x [B, N, 3 + F]`` with padding zero and the first three columns of zero mean over the points.

    The orthogonal projection onto the space of centred, masked clouds. NaN and infinity in a sample's padding
    do not spread to its points.

    Args:
        x: Point clouds, or directions.
        mask: True at points, ``[B, N]``.
    """
    points = mask[..., None]
    x = torch.where(points, x, 0)
    mean = x[..., :3].sum(1, keepdim=True) / points.sum(1, keepdim=True).clamp(min=1)
    return torch.cat((torch.where(points, x[..., :3] - mean, 0), x[..., 3:]), -1)
