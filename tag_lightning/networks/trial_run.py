"""A trial run of a network, which reveals a mismatch with the data before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.evaluation_mode import evaluating


def require_accepts(
    network: nn.Module, sample_shape: Sequence[int], name: str, /, *arguments: Any, **inputs: Tensor
) -> None:
    """Run one empty sample through the network.

    Args:
        network: Called as ``network(x, *arguments, **inputs)``.
        sample_shape: Shape of one sample.
        name: Name of the network in the error.
        *arguments: Further positional arguments of the call.
        **inputs: Keyword arguments of the call, for one sample.

    Raises:
        ValueError: If the network cannot take such samples.
    """
    like = next(network.parameters(), torch.empty(0))
    x = torch.zeros(1, *sample_shape).to(like)
    arguments = tuple(a.to(like.device) if isinstance(a, Tensor) else a for a in arguments)
    inputs = {name: value.to(like.device) for name, value in inputs.items()}
    try:
        with torch.no_grad(), evaluating(network):
            network(x, *arguments, **inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} ({type(network).__name__}) cannot take samples of shape {list(sample_shape)}: {reason}; "
            f"{_remedy(network, sample_shape)}"
        ) from error


def _remedy(network: nn.Module, sample_shape: Sequence[int]) -> str:
    config = getattr(network, "config", {})
    channels, halvings = config.get("in_channels"), len(config.get("block_out_channels", ())) - 1
    if channels is not None and channels != sample_shape[0]:
        return f"it was built for {channels} channels, so set in_channels or the data's channels"
    if halvings > 0 and any(side % 2**halvings for side in sample_shape[1:]):
        factor = 2**halvings
        if len(sample_shape) == 3:
            return f"it halves the image {halvings} times, so height and width must be multiples of {factor}"
        return f"it halves the sample {halvings} times, so its length must be a multiple of {factor}"
    return "make the sizes of the network and of the data agree"
