"""The amount of ink of an image, exact from its pixels."""

from __future__ import annotations

from torch import Tensor, nn


class Ink(nn.Module):
    """Mean brightness of images, in [0, 1]: how much of a digit is written, whatever its hue.

    The brightness of a pixel is its largest channel (the V of HSV). The network has no weights: it is the attribute's
    definition, so the same network may guide and judge.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Ink ``[B]`` of images ``x [B, C, H, W]`` in [-1, 1]."""
        return (x.amax(1).mean((1, 2)) + 1) / 2
