"""A trial run of a network, which reveals a mismatch with the data before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.diffusion.sample_sizes import wrong_size
from tag_lightning.evaluation_mode import evaluating


def require_accepts(
    network: nn.Module, sample_shape: Sequence[int], name: str, /, *arguments: Any, **inputs: Tensor
) -> Any:
    """Run one empty sample through the network and return its output.

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
            return network(x, *arguments, **inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        remedy = wrong_size(network, sample_shape) or "make the sizes of the network and of the data agree"
        raise ValueError(
            f"{name} ({type(network).__name__}) cannot take samples of shape {list(sample_shape)}: {reason}; {remedy}"
        ) from error
