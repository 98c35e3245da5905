"""What every guidance is made of.

``Guidance`` and its hooks are part of the reverse loop's contract and are defined beside it, in
``tag_lightning.diffusion.hooks``; here are the tools that several guidances share.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from tag_lightning.diffusion import Guidance

__all__ = ["Guidance", "per_sample", "require_bound"]

T = TypeVar("T")


def per_sample(values: Tensor | float, like: Tensor) -> Tensor | float:
    """``values [B]`` shaped to multiply ``like [B, ...]``; a number stays as it is."""
    if isinstance(values, Tensor) and values.ndim == 1:
        return values.reshape(-1, *(1,) * (like.ndim - 1)).to(like)
    return values


def require_bound(resource: T | None, guidance: Guidance, name: str) -> T:
    """``resource``, which must have been given or bound.

    Raises:
        ValueError: If it is still None.
    """
    if resource is None:
        raise ValueError(
            f"{type(guidance).__name__} has no {name}: pass {name}=... or run it where one is provided "
            f"(GuidedSampling provides it from its own arguments)"
        )
    return resource
