"""Distance of the quantities of generated images from those asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tag_lightning.metrics.sample_metric import SampleMetric


class QuantityError(SampleMetric):
    """Mean absolute error ``mae_<name>`` of quantities by their judges, in their units; needs ``further_targets``.

    For a range it is the mean distance from the range.
    """

    @property
    def columns(self) -> dict[str, int]:
        return {"quantities": len(self._names)} if self._names else {}

    @property
    def _names(self) -> list[str]:
        return [name for name, target in self.task.further.items() if target.measures]

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"quantities": torch.stack([self.task.further[name].judge(x) for name in self._names], 1)}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        figures = {}
        for name, values in zip(self._names, rows["quantities"].T, strict=True):
            errors = self.task.further[name].errors(values, self.task.seed)
            figures[f"mae_{name}"] = float(errors.mean())
        return figures
