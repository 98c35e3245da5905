"""The base of image data: values in [-1, 1], halves, variants."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch.utils.data import Dataset

from tag_lightning.datamodules.base import Half, Split, TableDataModule
from tag_lightning.datamodules.tables import ImageTable, fixed_order, select
from tag_lightning.memory import require_memory


class ImageDataModule(TableDataModule):
    """Base class of images in [-1, 1].

    Args:
        batch_size: Images per batch and process.
        half: Train on one half of the training images only, so that a guide and a judge share none.
        **kwargs: Arguments of ``TableDataModule``.
    """

    def __init__(self, batch_size: int = 256, half: Half | None = None, **kwargs: Any) -> None:
        super().__init__(batch_size, **kwargs)
        self.half = half

    @staticmethod
    def image_arguments(size: int, channels: int, classes: dict[str, int]) -> dict[str, Any]:
        """``network_arguments`` of square images.

        Args:
            size: Height and width.
            channels: Number of channels.
            classes: Number of values of each class attribute.
        """
        return {"sample_size": size, "in_channels": channels, "out_channels": channels, "num_classes": classes}

    def require_memory(self, count: int, size: int, channels: int, bytes_each: int, remedy: str) -> None:
        """Check that images can be held before they are made.

        Args:
            count: Images that are held at once.
            size: Height and width.
            channels: Number of channels of the images that are held.
            bytes_each: Bytes of a value while the images are made.
            remedy: The way out if one batch can be held, but not all of them.

        Raises:
            ValueError: If they, or the float32 values of one batch, take more memory than is free.
        """
        values = channels * size**2
        shape = f"images of {channels} x {size} x {size}"
        lower = "lower data.init_args.size or data.init_args.batch_size"
        require_memory(
            4.0 * self.batch_size * values, f"the float32 values of a batch of {self.batch_size} {shape}", lower
        )
        require_memory(float(bytes_each) * count * values, f"{count} {shape}", remedy)

    @abstractmethod
    def load(self, split: Split) -> ImageTable:
        """Return the images of one split, before halving and variants, and set ``num_classes``."""

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        """Return the table with every variant that counts as data, for example each hue."""
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
