"""The hue of an image, exact from its pixels."""

from __future__ import annotations

import colorsys

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hue(nn.Module):
    """Classifies the hue of images of one colour on black, evenly spaced around the colour circle, starting at red.

    The logits are cosines between the chroma of the mean colour and that of each hue. The network has no weights: it
    is the attribute's definition, so the same network may guide and judge.

    Args:
        num_classes: K, the number of hues.
        sharpness: Factor of the cosines, above 0.

    Raises:
        ValueError: If ``num_classes`` is below 2 or ``sharpness`` not above 0.
    """

    chroma: Tensor

    def __init__(self, num_classes: int = 8, sharpness: float = 20.0) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if sharpness <= 0:
            raise ValueError(f"sharpness must be above 0, got {sharpness}")
        self.num_classes = num_classes
        self.sharpness = sharpness
        colours = torch.tensor([colorsys.hsv_to_rgb(k / num_classes, 1.0, 1.0) for k in range(num_classes)])
        self.register_buffer("chroma", F.normalize(_chroma(colours)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K]`` of images ``x [B, 3, H, W]`` in [-1, 1]."""
        chroma = F.normalize(_chroma(x.mean((2, 3))), eps=1e-6)
        return self.sharpness * chroma @ self.chroma.to(x).T


def _chroma(colours: Tensor) -> Tensor:
    return colours - colours.mean(1, keepdim=True)
