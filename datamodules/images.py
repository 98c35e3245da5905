"""What all image data share: values in [-1, 1], halves, enlarging."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.tables import ImageTable, fixed_order, select
from torch.utils.data import Dataset

Half = Literal["first", "second"]


class ImageDataModule(TableDataModule):
    """Images in [-1, 1].

    Args:
        batch_size: Images a batch and process.
        num_workers: Processes that prepare batches; 0 is fastest for data that sit in memory.
        seed: Seed of the training order. The splits do not depend on it.
        half: Train on one half of the training images only, so that a guide and a judge share none.
    """

    def __init__(self, batch_size: int = 256, num_workers: int = 0, seed: int = 0, half: Half | None = None) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.half = half

    @abstractmethod
    def load(self, split: Split) -> ImageTable:
        """The images of one split, before halving and enlarging; sets ``num_classes``."""

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        """Every variant of the images that counts as data, for example each hue."""
        return table

    def build(self, split: Split) -> Dataset:
        table = self.load(split)
        if split == "train" and self.half is not None:
            table = _half(table, self.half)
        return self.enlarge(table, split)


def _half(table: ImageTable, half: Half) -> ImageTable:
    order = fixed_order(len(table))
    cut = len(table) // 2
    return select(table, order[:cut] if half == "first" else order[cut:])
