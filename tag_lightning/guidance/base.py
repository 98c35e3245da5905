"""What every guidance is made of.

``Guidance`` and its hooks are part of the reverse loop's contract and are defined beside it, in
``tag_lightning.diffusion.hooks``; here are the tools that several guidances share.
"""

from __future__ import annotations

from torch import Tensor

from tag_lightning.diffusion import Guidance

__all__ = ["Guidance", "per_sample"]


def per_sample(values: Tensor | float, like: Tensor) -> Tensor | float:
    """``values [B]`` shaped to multiply ``like [B, ...]``; a number stays as it is."""
    if isinstance(values, Tensor) and values.ndim == 1:
        return values.reshape(-1, *(1,) * (like.ndim - 1)).to(like)
    return values
