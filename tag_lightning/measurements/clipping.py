"""Clipped sound."""

from __future__ import annotations

from torch import Tensor

from tag_lightning.measurements.measurement import Measurement


class Clipping(Measurement):
    """Waveforms whose values beyond a limit are cut off, as by an overloaded recorder. Declipping restores the peaks.

    The operator is not linear. Its gradient is that of the identity within the limit and 0 beyond it.

    Args:
        limit: Largest absolute value that passes, in (0, 1).
        noise: See ``Measurement``; it is added after clipping.

    Raises:
        ValueError: If ``limit`` is outside (0, 1).
    """

    kind = "waveforms"
    axes = ("C", "L")

    def __init__(self, limit: float = 0.25, noise: float = 0.01) -> None:
        super().__init__(noise)
        if not 0 < limit < 1:
            raise ValueError(f"limit must lie between 0 and 1, the range of waveforms, got {limit}")
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """Clipped waveforms ``[B, C, L]``."""
        return x.clamp(-self.limit, self.limit)
