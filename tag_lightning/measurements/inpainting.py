"""Missing pixels."""

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
        height, width = sample_shape[-2:]
        ranks = torch.stack(SampleNoise(seed, indices, _MASK_STREAM).normal([(height * width,)] * len(indices)))
        known = ranks.argsort(1).argsort(1) >= round(self.missing * height * width)
        bound = super().for_samples(sample_shape, indices, seed)
        bound.mask = known.reshape(-1, 1, height, width)
        return bound

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` with the missing pixels 0.

        Raises:
            ValueError: Without masks, or for another number or size of images than they are made for.
        """
        if self.mask is None:
            raise ValueError("Inpainting has no masks yet: call for_samples with the images' shape and indices")
        if (len(x), *x.shape[2:]) != (len(self.mask), *self.mask.shape[2:]):
            raise ValueError(f"masks {list(self.mask.shape)} do not fit images {list(x.shape)}; call for_samples")
        self.mask = self.mask.to(x.device)
        return x * self.mask

    def visible(self, noise: Tensor) -> Tensor:
        return self(noise)
