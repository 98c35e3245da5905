"""Agreement with several targets, each by itself and all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tag_lightning.metrics.sample_metric import SampleMetric


class Conjunction(SampleMetric):
    """Share of samples that satisfy each further target, ``accuracy_<name>``, and all at once, ``accuracy_all``.

    A target is satisfied if its judge says so: the class asked for, or a quantity in the range asked for. Targets
    without a judge, and those that ask for a value, do not count. Needs a task with ``further_targets``.
    """

    @property
    def columns(self) -> dict[str, int]:
        return {"satisfied": len(self._names)} if self._names else {}

    @property
    def _names(self) -> list[str]:
        return [name for name, target in self.task.further.items() if target.decides]

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"satisfied": torch.stack([self.task.further[name].satisfied(x, indices) for name in self._names], 1)}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        satisfied = rows["satisfied"]
        figures = {f"accuracy_{name}": float(satisfied[:, k].mean()) for k, name in enumerate(self._names)}
        return figures | {"accuracy_all": float(_all(rows).mean())}

    def terms(self, rows: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        shares = {f"accuracy_{name}": rows["satisfied"][:, k] for k, name in enumerate(self._names)}
        return {name: (row, torch.ones_like(row)) for name, row in (shares | {"accuracy_all": _all(rows)}).items()}


def _all(rows: Mapping[str, Tensor]) -> Tensor:
    """1 for samples that satisfy every further target and the class, ``[N]``."""
    everything = [rows["satisfied"], *([rows["correct"]] if "correct" in rows else [])]
    return torch.cat(everything, 1).prod(1)
