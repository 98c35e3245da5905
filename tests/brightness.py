"""A metric as a stranger writes it: one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from tag_lightning.metrics import SampleMetric


class Brightness(SampleMetric):
    """Mean brightness of the samples, in [-1, 1]."""

    @property
    def columns(self) -> dict[str, int]:
        return {"brightness": 1}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"brightness": x.flatten(1).mean(1)}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {"brightness": float(rows["brightness"].mean())}
