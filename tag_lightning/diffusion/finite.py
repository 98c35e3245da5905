"""A check that turns NaN and infinity into an error that says where they came from."""

from __future__ import annotations

import torch
from torch import Tensor


class NonFiniteError(FloatingPointError):
    """A network returned NaN or infinity while sampling."""


def require_finite(values: Tensor, what: str, timestep: int) -> Tensor:
    """``values``, if all are finite.

    Raises:
        NonFiniteError: Names ``what`` returned them, for how many samples, and the timestep.
    """
    finite = torch.isfinite(values.detach()).reshape(len(values), -1).all(1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise NonFiniteError(
            f"{what} returned NaN or infinity at timestep {timestep} for {bad} of {len(values)} samples; "
            "check the weights or, where guidance moves the samples, lower its scale or strength"
        )
    return values
