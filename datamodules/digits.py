"""The digits that scikit-learn ships."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.images import Half, ImageDataModule
from tag_lightning.datamodules.tables import ImageTable, TintedTable, fixed_order, select
from torch.utils.data import Dataset


class DigitsDataModule(ImageDataModule):
    """The 1,797 handwritten digits that scikit-learn ships (UCI, 8x8 grey), resized.

    Attribute ``label`` is the digit; tinted images have a second one, ``hue``. 80 / 10 / 10 % of the digits
    train, validate and test, whatever the tint.

    Args:
        size: Height and width, at least 8.
        tinted: RGB images, every digit in each of 8 hues, instead of grey ones.
        batch_size: Images a batch and process.
        num_workers: Processes that prepare the batches of each loader; 0 is fastest for images in memory.
        seed: Seed of the training order. The splits do not depend on it.
        half: Train on one half of the training images only, so that a guide and a judge share none.
    """

    def __init__(
        self,
        size: int = 16,
        tinted: bool = True,
        batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
        half: Half | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, half)
        if size < 8:
            raise ValueError(f"size must be at least 8 (the digits are 8x8), got {size}")
        self.size = size
        self.tinted = tinted

    def prepare_data(self) -> None:
        """Nothing to fetch: the digits are installed with scikit-learn."""

    def load(self, split: Split) -> ImageTable:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images)[:, None] / 16
        images = F.interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        table = ImageTable((images * 255).round().byte(), {"label": torch.from_numpy(digits.target).long()})
        order = fixed_order(len(table))
        bounds = {"train": (0, 1437), "val": (1437, 1617), "test": (1617, 1797)}[split]
        self.num_classes = {"label": 10} | ({"hue": 8} if self.tinted else {})
        return select(table, order[slice(*bounds)])

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        return TintedTable(table) if self.tinted else table
