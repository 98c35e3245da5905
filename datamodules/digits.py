"""The handwritten digits of scikit-learn."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.tables import ImageTable, TintedTable, fixed_order, select

_BYTES = 9  # float64 and the rounded byte


class DigitsDataModule(ImageDataModule):
    """The 1,797 handwritten digits of scikit-learn (UCI, 8x8 grey), resized.

    Attribute ``label`` is the digit, ``ink`` the mean brightness before tinting, in [0, 1]; tinted images also have
    ``hue``. The splits hold 80 / 10 / 10 % of the digits, tinted or not.

    Args:
        size: Height and width, at least 8.
        tinted: RGB images with every digit in each of 8 hues, instead of grey ones.
        **kwargs: Arguments of ``ImageDataModule``.

    Raises:
        ValueError: If ``size`` is below 8.
    """

    def __init__(self, size: int = 16, tinted: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 8:
            raise ValueError(f"size must be at least 8 (the digits are 8x8), got {size}")
        self.size = size
        self.tinted = tinted

    @property
    def network_arguments(self) -> dict[str, Any]:
        return self.image_arguments(self.size, 3 if self.tinted else 1, self._class_counts)

    @property
    def _class_counts(self) -> dict[str, int]:
        return {"label": 10} | ({"hue": 8} if self.tinted else {})

    def prepare_data(self) -> None:
        """Do nothing: the digits are installed with scikit-learn."""

    def load(self, split: Split) -> ImageTable:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.require_memory(len(digits.images), self.size, 1, _BYTES, "lower data.init_args.size")
        images = torch.from_numpy(digits.images)[:, None] / 16
        images = F.interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        pixels = (images * 255).round().byte()
        ink = pixels.float().mean((1, 2, 3)) / 255
        table = ImageTable(pixels, {"label": torch.from_numpy(digits.target).long(), "ink": ink})
        order = fixed_order(len(table))
        bounds = {"train": (0, 1437), "val": (1437, 1617), "test": (1617, 1797)}[split]
        self.num_classes = self._class_counts
        return select(table, order[slice(*bounds)])

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        return TintedTable(table) if self.tinted else table
