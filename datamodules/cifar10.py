"""CIFAR-10 in the files of its authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.images import Half, ImageDataModule
from tag_lightning.datamodules.tables import ImageTable, MirroredTable, fixed_order, select
from torch.utils.data import Dataset


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10, 32x32 RGB, in the files of its authors: 45,000 / 5,000 / 10,000 images.

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py``.
        download: Fetch the files where they are missing.
        mirror: Train on the mirror images as well.
        batch_size: Images a batch and process.
        num_workers: Processes that prepare the batches of each loader; 0 is fastest for images in memory.
        seed: Seed of the training order. The splits do not depend on it.
        half: Train on one half of the training images only, so that a guide and a judge share none.
    """

    def __init__(
        self,
        root: str = "data/cifar10",
        download: bool = False,
        mirror: bool = True,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        half: Half | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, half)
        self.root = Path(root)
        self.download = download
        self.mirror = mirror

    def prepare_data(self) -> None:
        self._open(train=True)

    def load(self, split: Split) -> ImageTable:
        source = self._open(train=split != "test")
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        self.num_classes = {"label": len(source.classes)}
        table = ImageTable(images, {"label": torch.tensor(source.targets)})
        if split == "test":
            return table
        order = fixed_order(len(table))
        return select(table, order[:45_000] if split == "train" else order[45_000:])

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        return MirroredTable(table) if self.mirror and split == "train" else table

    def _open(self, train: bool) -> Any:
        from torchvision.datasets import CIFAR10

        try:
            return CIFAR10(self.root, train=train, download=self.download)
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"CIFAR-10 is not in {self.root} ({error}); set data.init_args.download=true or give the folder "
                "that holds cifar-10-batches-py"
            ) from error
