"""Spaces of samples: shape, noise, admissible directions, range of clean samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from tag_lightning.diffusion.arguments import require_device
from tag_lightning.diffusion.counter_noise import CounterNoise
from tag_lightning.diffusion.device_transfer import on_device
from tag_lightning.diffusion.sample_noise import SampleNoise


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

    def noise_source(self, seed: int, stream: int = 0) -> SampleNoise:
        """The source of this batch's noise: on the CPU for samples that live there, else on their device.

        Both give a sample the same noise in every batch and on every process, but not the same as each other.

        Args:
            seed: Non-negative seed of the run.
            stream: See ``SampleNoise``.
        """
        device = self.degrees_of_freedom.device
        if device.type == "cpu":
            return SampleNoise(seed, self.indices, stream)
        return CounterNoise(seed, self.indices, stream, device)

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

    Raises:
        ValueError: If the device does not exist.
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
        self.device = device = require_device(device)
        self.dtype = dtype
        self.clip_range = clip_range
        self.degrees_of_freedom = torch.full((len(indices),), float(np.prod(shape)), device=device, dtype=dtype)

    def noise(self, source: SampleNoise) -> Tensor:
        return on_device(source.batch(self.shape), self.device, self.dtype)

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
        device = require_device(device)
        if len(sizes) != len(indices) or not all(1 <= size <= width for size in sizes):
            raise ValueError(f"{len(indices)} samples need as many sizes in 1 .. {width}, got {list(sizes)}")
        self.sizes = tuple(sizes)
        self.num_features = num_features
        self.indices = indices
        self.width = width
        self.dtype = dtype
        counts = on_device(torch.tensor(self.sizes), device)
        self.mask = torch.arange(width, device=device) < counts[:, None]
        self.inputs = {"mask": self.mask}
        self.degrees_of_freedom = (3 * (counts - 1) + num_features * counts).to(dtype)

    def noise(self, source: SampleNoise) -> Tensor:
        noise = source.batch((self.width, 3 + self.num_features), self.sizes)
        return self.project(on_device(noise, self.mask.device, self.dtype))

    def project(self, direction: Tensor) -> Tensor:
        return centred(direction, self.mask)

    def clip(self, x0: Tensor) -> Tensor:
        return x0


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
