"""Missing pixels, and missing stretches of sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from tag_lightning.diffusion import SampleNoise
from tag_lightning.measurements.measurement import Measurement

# Apart from the streams of the reverse loop, of targets and of the measurement's noise.
_MASK_STREAM = 4


class Inpainting(Measurement):
    """Images whose pixels are missing at random, all channels of a pixel together; missing ones measure 0, no noise.

    Each image has a mask of its own, which follows from the seed and the image's index.

    Args:
        missing: Share of pixels that are missing, in (0, 1), rounded to whole pixels.
        noise: See ``Measurement``.

    Raises:
        ValueError: If ``missing`` is not such a share.
    """

    def __init__(self, missing: float = 0.7, noise: float = 0.05) -> None:
        super().__init__(noise)
        if not 0 < missing < 1:
            raise ValueError(f"missing must be a share of the pixels between 0 and 1, got {missing}")
        self.missing = missing
        self.mask: Tensor | None = None

    def for_samples(self, sample_shape: Sequence[int], indices: Sequence[int], seed: int) -> Self:
        bound = super().for_samples(sample_shape, indices, seed)
        bound.mask = self.known(sample_shape, SampleNoise(seed, indices, _MASK_STREAM), len(indices))
        return bound

    def known(self, sample_shape: Sequence[int], source: SampleNoise, count: int) -> Tensor:
        """True at what is measured of ``count`` samples, ``[B, 1, H, W]``, drawn from ``source``."""
        height, width = sample_shape[-2:]
        ranks = torch.stack(source.normal([(height * width,)] * count))
        known = ranks.argsort(1).argsort(1) >= round(self.missing * height * width)
        return known.reshape(-1, 1, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]``, or other samples, 0 where they are missing.

        Raises:
            ValueError: Without masks, or for another number or size of samples than they are made for.
        """
        if self.mask is None:
            raise ValueError(
                f"{type(self).__name__} has no masks yet: call for_samples with the {self.kind}' shape and indices"
            )
        if (len(x), *x.shape[2:]) != (len(self.mask), *self.mask.shape[2:]):
            raise ValueError(f"masks {list(self.mask.shape)} do not fit {self.kind} {list(x.shape)}; call for_samples")
        self.mask = self.mask.to(x.device)
        return x * self.mask

    def visible(self, noise: Tensor) -> Tensor:
        return self(noise)


class MissingIntervals(Inpainting):
    """Waveforms with stretches that are missing, all channels together; they measure 0, without noise.

    The intervals are equally long up to one sample, do not overlap, and lie uniformly at random. Each waveform has its
    own, which follow from the seed and its index.

    Args:
        missing: Share of the samples that are missing, in (0, 1).
        count: Number of intervals, at least 1.
        noise: See ``Measurement``.

    Raises:
        ValueError: If ``missing`` is not such a share, or ``count`` is below 1.
    """

    kind = "waveforms"
    axes = ("C", "L")

    def __init__(self, missing: float = 0.25, count: int = 1, noise: float = 0.01) -> None:
        super().__init__(missing, noise)
        if count < 1:
            raise ValueError(f"count must be at least 1 interval, got {count}")
        self.count = count

    def require_shape(self, sample_shape: Sequence[int]) -> None:
        super().require_shape(sample_shape)
        if round(self.missing * sample_shape[-1]) < self.count:
            raise ValueError(
                f"{self.count} intervals do not fit into {self.missing:g} of waveforms of {sample_shape[-1]} samples; "
                "lower count or raise missing"
            )

    def known(self, sample_shape: Sequence[int], source: SampleNoise, count: int) -> Tensor:
        length = sample_shape[-1]
        ends = [round(self.missing * length) * k // self.count for k in range(self.count + 1)]
        places = torch.arange(length)
        # Where each interval begins among the samples that are left.
        draws = torch.stack([source.integers(length - ends[-1] + 1) for _ in range(self.count)])
        mask = torch.ones(count, 1, length, dtype=torch.bool)
        for k, start in enumerate(draws.sort(0).values):
            first = (start + ends[k])[:, None]
            mask[:, 0] &= (places < first) | (places >= first + ends[k + 1] - ends[k])
        return mask
