"""The batch that every data source yields."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Clean samples with their targets and network inputs.

    Attributes:
        x: Clean samples, ``[B, C, H, W]`` in [-1, 1] for images.
        attributes: Named targets, each ``[B]``: integers for classes, floats for quantities.
        inputs: Further keyword arguments of the networks.
    """

    x: Tensor
    attributes: dict[str, Tensor]
    inputs: dict[str, Tensor]
