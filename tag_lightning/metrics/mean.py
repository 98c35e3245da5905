"""The mean of anything over samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """Mean over samples that, unlike torchmetrics' own, can be updated both in and outside inference mode."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor, weight: int = 1) -> None:
        """Add ``values`` of any shape, each the mean of ``weight`` samples."""
        self.total = self.total + weight * values.detach().double().sum()
        self.count = self.count + weight * values.numel()

    def compute(self) -> Tensor:
        """The mean, a float32 scalar; NaN without values."""
        return (self.total / self.count).float()
