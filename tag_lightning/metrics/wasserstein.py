"""Wasserstein distance of samples to real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tag_lightning.metrics.sample_metric import SampleMetric


class Wasserstein(SampleMetric):
    """1-Wasserstein distance ``w1`` of N samples to the first N training samples, by exact assignment.

    Euclidean, in the unit of the data. The assignment takes time cubic in N: for vectors of low dimension.
    """

    needs_real = True
    _real: list[Tensor]

    def for_task(self, task: Any) -> Self:
        """Bind to the task.

        Raises:
            ValueError: If more samples are asked for than there are training samples.
        """
        available = len(task.data.table("train"))
        if task.num_samples > available:
            raise ValueError(
                f"num_samples is {task.num_samples}, but w1 compares samples with as many training samples, and there "
                f"are {available}; ask for fewer samples or more data"
            )
        bound = super().for_task(task)
        bound._real = []
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {"points": torch.Size(self.task.sample_shape).numel()}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"points": x.flatten(1)}

    def add_real(self, batch: Any, device: torch.device) -> None:
        self._real.append(batch.x.flatten(1))

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``w1``; nothing without real data, as under ``predict``."""
        if not self._real:
            return {}
        points, real = rows["points"], torch.cat(self._real)
        if len(real) < len(points):
            raise ValueError(f"w1 of {len(points)} samples needs as many real samples, got {len(real)}")
        costs = torch.cdist(points, real[: len(points)].to(points)).numpy()
        return {"w1": float(costs[linear_sum_assignment(costs)].mean())}
