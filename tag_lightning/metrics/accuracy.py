"""Agreement of a classifier with the classes that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tag_lightning.metrics.sample_metric import SampleMetric


def agrees(logits: Tensor, classes: Tensor) -> Tensor:
    """True where the likeliest class under ``logits [B, K]`` is that of ``classes [B]``."""
    return logits.argmax(1) == classes.to(logits.device)


class Accuracy(SampleMetric):
    """Share of samples that the judge assigns to the class asked for: ``accuracy`` in [0, 1].

    Needs a task with a ``judge`` and integer ``targets(indices)``.
    """

    @property
    def columns(self) -> dict[str, int]:
        return {} if self.task.judge is None else {"correct": 1}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"correct": agrees(self.task.judge(x), self.task.targets(indices))}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(rows["correct"].mean())}

    def terms(self, rows: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        correct = rows["correct"].flatten()
        return {"accuracy": (correct, torch.ones_like(correct))}
