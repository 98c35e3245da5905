"""Gaussian blur."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from tag_lightning.measurements.measurement import Measurement

_REACH = 10


class GaussianBlur(Measurement):
    """Blur by a Gaussian kernel, images mirrored at their edges: 61x61 pixels with a standard deviation of 3.

    That kernel is the one of DPS (Chung et al. 2023, Sec. 4) for images of 256x256. Its reach stays 10 standard
    deviations for another ``std``, and ends at the size of the image, beyond which a mirror image has no pixels.

    Args:
        std: Standard deviation of the kernel in pixels, above 0.
        noise: See ``Measurement``.

    Raises:
        ValueError: If ``std`` is not a positive finite number.
    """

    def __init__(self, std: float = 3.0, noise: float = 0.05) -> None:
        super().__init__(noise)
        if not 0 < std < math.inf:
            raise ValueError(f"std must be a finite number of pixels above 0, got {std}")
        self.std = std

    def kernel_size(self, sample_shape: Sequence[int]) -> int:
        """Height and width of the kernel for images ``(C, H, W)``, odd."""
        return 2 * min(math.ceil(_REACH * self.std), min(sample_shape[-2:]) - 1) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Blurred images ``[B, C, H, W]``."""
        from torchvision.transforms.v2.functional import gaussian_blur  # slow to load

        return gaussian_blur(x, [self.kernel_size(x.shape)] * 2, [self.std] * 2)
