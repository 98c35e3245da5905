"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*networks: nn.Module | None) -> Iterator[None]:
    """Put networks into evaluation mode; afterwards every part is in its former mode, frozen parts included."""
    modes = {part: part.training for network in networks if network is not None for part in network.modules()}
    try:
        for network in networks:
            if network is not None:
                network.eval()
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
