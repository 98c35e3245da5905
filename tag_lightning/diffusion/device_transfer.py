"""Values of the host on a device."""

from __future__ import annotations

import torch
from torch import Tensor


def on_device(values: Tensor | float, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor or a number on ``device``; if that is a GPU, without waiting for what it still has to do.

    Args:
        values: Already there, on the host, or a number, which becomes a tensor without dimensions.
        device: The device.
        dtype: Type of the result; None keeps that of ``values``.
    """
    if not isinstance(values, Tensor):
        return torch.full((), values, dtype=dtype, device=device)  # torch.tensor would copy it from the host
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()  # a copy from pageable memory would wait
    # To the host a copy has to be waited for: its values would be read before they are there.
    return values.to(device, dtype, non_blocking=device.type != "cpu")
