"""Errors of properties beside their mean, which a few broken molecules decide."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def error_names(names: Iterable[str], details: bool, prefix: str = "") -> set[str]:
    """Names of the errors of some properties: ``mae_<name>`` and, if asked for, those of ``error_details``."""
    kinds = ("mae", "median", "stable_mae") if details else ("mae",)
    return {f"{prefix}{kind}_{name}" for name in names for kind in kinds}


def error_details(errors: Tensor, stable: Tensor, name: str, prefix: str = "") -> dict[str, float]:
    """``median_<name>`` over all molecules and ``stable_mae_<name>``, the mean over the stable ones; NaN over none.

    Args:
        errors: Absolute errors ``[B]``; NaN where unknown, which is left out.
        stable: True at stable molecules, ``[B]``, see ``stable_molecules``.
        name: The property.
        prefix: Prefix of both names.
    """
    known = errors.isfinite()
    median = errors[known].double().quantile(0.5) if known.any() else torch.nan
    return {
        f"{prefix}median_{name}": float(median),
        f"{prefix}stable_mae_{name}": float(errors[known & stable].double().mean()),
    }
