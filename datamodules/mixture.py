"""Points from two Gaussians in the plane: the toy experiment of arXiv 2510.11057."""

from __future__ import annotations

import torch
from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.tables import PointTable


class MixtureDataModule(TableDataModule):
    """``1/2 N(m, I) + 1/2 N(-m, I)`` with ``m = (centre, centre)``; attribute ``component`` is 0 or 1.

    Args:
        centre: Both coordinates of the first component's mean.
        num_points: Points for training; a tenth of that many validate and test.
        batch_size: Points a batch and process.
        seed: Seed of the training order. The points do not depend on it.
    """

    def __init__(self, centre: float = 10.0, num_points: int = 50_000, batch_size: int = 512, seed: int = 0) -> None:
        super().__init__(batch_size, seed=seed)
        if num_points < 20:
            raise ValueError(f"num_points must be at least 20, got {num_points}")
        self.centre = centre
        self.num_points = num_points

    def prepare_data(self) -> None:
        """Nothing to fetch."""

    def build(self, split: Split) -> PointTable:
        stream = {"train": 0, "val": 1, "test": 2}[split]
        count = self.num_points if split == "train" else self.num_points // 10
        generator = torch.Generator().manual_seed(stream)
        component = torch.randint(2, (count,), generator=generator)
        noise = torch.randn(count, 2, generator=generator)
        self.num_classes = {"component": 2}
        return PointTable((1 - 2 * component[:, None]) * self.centre + noise, {"component": component})
