"""What every data source yields."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Clean samples and what is known about them.

    Attributes:
        x: Clean samples, ``[B, C, H, W]`` in [-1, 1] for images.
        attributes: Named targets, each ``[B]``: integers for classes, floats for quantities.
        inputs: What networks need beside the sample, as keyword arguments.
    """

    x: Tensor
    attributes: dict[str, Tensor]
    inputs: dict[str, Tensor]
