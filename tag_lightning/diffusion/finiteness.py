"""Checks of sampled values that name their origin, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class NonFiniteError(FloatingPointError):
    """A network returned NaN or infinity while sampling."""


class DeferredChecks:
    """Checks whose outcome stays on the device until ``settle`` reads all of them in one transfer.

    Reading a flag from a GPU waits for everything queued before it, so a check per network call would cost more
    than the call's own overhead.

    Args:
        keep_nonfinite: Let samples become NaN or infinite. Samples of a batch do not interact, so the others are
            unaffected.
    """

    def __init__(self, keep_nonfinite: bool = False) -> None:
        self.keep_nonfinite = keep_nonfinite
        self._open: list[tuple[Tensor, Callable[[], Exception]]] = []

    def require(self, good: Tensor, error: Callable[[], Exception]) -> None:
        """Raise ``error()`` at the next ``settle`` unless every entry of ``good`` is True."""
        self._open.append((good.logical_not().any(), error))

    def require_finite(self, values: Tensor, what: str, timestep: int) -> Tensor:
        """Return ``values [B, ...]``; the next ``settle`` raises if one is NaN or infinite and those are not kept.

        Args:
            values: The values to check.
            what: Their origin, as the error names it.
            timestep: Training timestep of the samples.
        """
        if not self.keep_nonfinite:
            finite = torch.isfinite(values.detach()).reshape(len(values), -1).all(1)
            self.require(finite, lambda: _nonfinite(finite, what, timestep))
        return values

    def settle(self) -> None:
        """Raise the error of the first check that failed.

        Raises:
            NonFiniteError: Names the origin, the number of samples and the timestep.
        """
        checks, self._open = self._open, []
        if not checks:
            return
        failed = torch.stack([flag for flag, _ in checks]).tolist()
        for (_, error), bad in zip(checks, failed, strict=True):
            if bad:
                raise error()


def require_finite(values: Tensor, what: str, timestep: int) -> Tensor:
    """Return ``values [B, ...]`` if all of them are finite.

    Raises:
        NonFiniteError: As ``DeferredChecks.settle``.
    """
    checks = DeferredChecks()
    checks.require_finite(values, what, timestep)
    checks.settle()
    return values


def _nonfinite(finite: Tensor, what: str, timestep: int) -> NonFiniteError:
    return NonFiniteError(
        f"{what} returned NaN or infinity at timestep {timestep} for {int((~finite).sum())} of {len(finite)} samples; "
        "check the weights or, if guidance moves the samples, lower its scale or strength"
    )
