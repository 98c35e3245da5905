"""Evaluation mode for a while, and the networks that an object holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

# What networks are not looked for in; a Python module leads to the whole program.
_EMPTY = (type, ModuleType, Tensor, str, bytes, int, float, range)


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


def networks_inside(*holders: Any) -> list[nn.Module]:
    """The networks that objects hold in their attributes, lists and dictionaries, at any depth, each once.

    Also those behind bound methods and ``functools.partial``, but not the variables of a closure.
    """
    found: list[nn.Module] = []
    seen: dict[int, Any] = {}  # holds on to objects made on the way, whose numbers others could take
    left = list(holders)
    while left:
        holder = left.pop()
        if id(holder) in seen or isinstance(holder, _EMPTY):
            continue
        seen[id(holder)] = holder
        if isinstance(holder, nn.Module):
            found.append(holder)
        elif isinstance(holder, dict):
            left += holder.values()
        elif isinstance(holder, list | tuple | set | frozenset):
            left += holder
        elif isinstance(holder, partial):
            left += [holder.func, holder.args, holder.keywords]
        elif isinstance(holder, MethodType):
            left.append(holder.__self__)
        else:
            left += getattr(holder, "__dict__", {}).values()
    return found
