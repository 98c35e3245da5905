"""A check that turns NaN and infinity into an error that says where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_KEPT: ContextVar[bool] = ContextVar("nonfinite_samples_are_kept", default=False)


class NonFiniteError(FloatingPointError):
    """A network returned NaN or infinity while sampling."""


def require_finite(values: Tensor, what: str, timestep: int) -> Tensor:
    """``values``, if all are finite, or if samples that are not are kept (``keeping_nonfinite``).

    Raises:
        NonFiniteError: Names ``what`` returned them, for how many samples, and the timestep.
    """
    finite = torch.isfinite(values.detach()).reshape(len(values), -1).all(1)
    if not _KEPT.get() and not bool(finite.all()):
        bad = int((~finite).sum())
        raise NonFiniteError(
            f"{what} returned NaN or infinity at timestep {timestep} for {bad} of {len(values)} samples; "
            "check the weights or, where guidance moves the samples, lower its scale or strength"
        )
    return values


@contextmanager
def keeping_nonfinite(keep: bool = True) -> Iterator[None]:
    """Inside, samples may become NaN or infinite and are carried on, for whoever counts them in the end.

    Samples of a batch do not touch each other, so the others stay as they would have been.
    """
    token = _KEPT.set(keep)
    try:
        yield
    finally:
        _KEPT.reset(token)
