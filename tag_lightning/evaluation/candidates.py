"""Best of n: the likeliest of several candidates for each sample, by the guide."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tag_lightning.diffusion import Space
from tag_lightning.guidance import Condition


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of a candidate; the first has that of the run, so that it is the sample of an arm without candidates."""
    return seed + (candidate << 32)


class Likeliest:
    """Keeps the likeliest candidate for each sample of a chunk.

    The likelihood is that of clean samples under all conditions together, as guidance sees it. A candidate whose
    likelihood is NaN loses to any other.

    Args:
        conditions: The conditions of the chunk by name, at least one.
        space: The space of the chunk.
    """

    def __init__(self, conditions: Mapping[str, Condition], space: Space) -> None:
        self._conditions, self._space = tuple(conditions.values()), space
        self._best: dict[str, Tensor] = {}

    def add(self, candidates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take one more candidate for each sample.

        Args:
            candidates: The samples as ``x [B, ...]``, and whatever belongs to them, ``[B, ...]`` each.

        Returns:
            The same for the likeliest so far.
        """
        inputs = self._space.inputs
        total = torch.stack([c.log_likelihood(candidates["x"], **inputs) for c in self._conditions]).sum(0)
        new = dict(candidates) | {"log_likelihood": total.nan_to_num(nan=-torch.inf)}
        if self._best:
            better = new["log_likelihood"] > self._best["log_likelihood"]
            new = {name: _chosen(better, values, self._best[name]) for name, values in new.items()}
        self._best = new
        return {name: values for name, values in new.items() if name != "log_likelihood"}


def _chosen(first: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(first.to(a.device).reshape(-1, *(1,) * (a.ndim - 1)), a, b)
