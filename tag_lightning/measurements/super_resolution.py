"""Reduced resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tag_lightning.measurements.measurement import Measurement


class SuperResolution(Measurement):
    """Images reduced by a factor, bicubic with antialiasing; the task is to restore their resolution.

    Args:
        factor: Reduction of height and width, at least 2.
        noise: See ``Measurement``.

    Raises:
        ValueError: If ``factor`` is below 2.
    """

    def __init__(self, factor: int = 4, noise: float = 0.05) -> None:
        super().__init__(noise)
        if factor < 2:
            raise ValueError(f"factor must be at least 2, got {factor}")
        self.factor = factor

    def require_shape(self, sample_shape: Sequence[int]) -> None:
        super().require_shape(sample_shape)
        if any(side % self.factor for side in sample_shape[1:]):
            raise ValueError(
                f"factor {self.factor} does not divide the height and width of images {list(sample_shape)}; choose "
                "another factor, or images of another size"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Reduced images ``[B, C, H / factor, W / factor]``."""
        size = [side // self.factor for side in x.shape[-2:]]
        return F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
