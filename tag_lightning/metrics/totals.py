"""Quantities that add up over samples, and their sums over all processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed import all_reduce, is_available, is_initialized


class Totals:
    """Named sums over samples; the memory does not depend on the number of samples.

    A process may have made no sample at all, but all of them must call ``compute``.

    Args:
        zeros: Every sum as it is without samples, on the device to add on; NCCL adds on GPUs only.
    """

    def __init__(self, zeros: Mapping[str, Tensor]) -> None:
        self._own = {name: zero.to(torch.float64, copy=True) for name, zero in zeros.items()}

    def update(self, totals: Mapping[str, Tensor]) -> None:
        """Add the sums over some samples, every one by its name."""
        for name, own in self._own.items():
            own += totals[name]

    def compute(self) -> dict[str, Tensor]:
        """The sums over the samples of all processes, float64, by name; equal between processes up to rounding."""
        found = {name: own.clone() for name, own in self._own.items()}
        if is_available() and is_initialized():
            for total in found.values():
                all_reduce(total)
        return found
