"""Points from two Gaussians in the plane: the toy experiment of arXiv 2510.11057."""

from __future__ import annotations

import math
from typing import Any

import torch

from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.tables import TensorTable


class MixtureDataModule(TableDataModule):
    """``1/2 N(m, I) + 1/2 N(-m, I)`` with ``m = (centre, centre)``; attribute ``component`` is 0 or 1.

    Args:
        centre: Both coordinates of the first component's mean.
        num_points: Number of training points; validation and test have a tenth of it each.
        batch_size: Points per batch and process.
        **kwargs: Arguments of ``TableDataModule``. The points do not depend on ``seed``.

    Raises:
        ValueError: If ``num_points`` is below 20 or ``centre`` not finite.
    """

    def __init__(self, centre: float = 10.0, num_points: int = 50_000, batch_size: int = 512, **kwargs: Any) -> None:
        super().__init__(batch_size, **kwargs)
        if num_points < 20:
            raise ValueError(f"num_points must be at least 20, got {num_points}")
        if not math.isfinite(centre):
            raise ValueError(f"centre must be finite, got {centre}")
        self.centre = centre
        self.num_points = num_points

    def prepare_data(self) -> None:
        """Do nothing: the points are generated."""

    def build(self, split: Split) -> TensorTable:
        stream = {"train": 0, "val": 1, "test": 2}[split]
        count = self.num_points if split == "train" else self.num_points // 10
        generator = torch.Generator().manual_seed(stream)
        component = torch.randint(2, (count,), generator=generator)
        noise = torch.randn(count, 2, generator=generator)
        self.num_classes = {"component": 2}
        return TensorTable((1 - 2 * component[:, None]) * self.centre + noise, {"component": component})
