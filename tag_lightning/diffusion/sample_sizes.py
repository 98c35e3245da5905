"""Why a UNet cannot take samples of some shape, told by its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def wrong_size(network: nn.Module, sample_shape: Sequence[int]) -> str | None:
    """The reason and the way out, for a network that failed on samples of this shape; None if it does not tell.

    Args:
        network: Any network; those of diffusers have a configuration.
        sample_shape: Shape of one sample, channels first.
    """
    config: Any = getattr(network, "config", {})
    channels, halvings = config.get("in_channels"), len(config.get("block_out_channels", ())) - 1
    if channels is not None and channels != sample_shape[0]:
        return f"it was built for {channels} channels, so set in_channels or the data's channels"
    if halvings > 0 and any(side % 2**halvings for side in sample_shape[1:]):
        factor = 2**halvings
        if len(sample_shape) == 3:
            return f"it halves the image {halvings} times, so height and width must be multiples of {factor}"
        return f"it halves the sample {halvings} times, so its length must be a multiple of {factor}"
    return None
