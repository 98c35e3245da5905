"""The unit in which a network sees quantities: their mean and spread over the training data."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def mean_and_spread(values: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Mean and mean absolute deviation of quantities over the training data (Hoogeboom et al. 2022, App. E).

    Args:
        values: Finite values of K quantities, ``[N, K]``.
        names: Their names, for errors.

    Returns:
        Both float64 ``[K]``; the spread is at least 1e-6 in the unit of each quantity.

    Raises:
        ValueError: If a quantity has a single value, or none; names it.
    """
    for name, column in zip(names, values.T, strict=True):
        if not len(column) or bool((column == column[0]).all()):
            found = f"is {float(column[0]):g} in all {len(column)}" if len(column) else "has no value in any"
            raise ValueError(
                f"{name} {found} training samples, so a network cannot learn it; leave it out of "
                "data.init_args.properties and the network, or provide data in which it varies"
            )
    values = values.double()
    mean = values.mean(0)
    return mean, (values - mean).abs().mean(0).clamp(min=1e-6)
