"""CIFAR-10 in its authors' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.tables import ImageTable, MirroredTable, fixed_order, select


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10, 32x32 RGB, in its authors' files: 45,000 / 5,000 / 10,000 images.

    Args:
        root: Folder of ``cifar-10-batches-py``.
        download: Download missing files.
        mirror: Train on the mirror images as well.
        batch_size: Images per batch and process.
        **kwargs: Arguments of ``ImageDataModule``.
    """

    def __init__(
        self,
        root: str = "data/cifar10",
        download: bool = False,
        mirror: bool = True,
        batch_size: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size, **kwargs)
        self.root = Path(root)
        self.download = download
        self.mirror = mirror

    @property
    def network_arguments(self) -> dict[str, Any]:
        return self.image_arguments(32, 3, {"label": 10})

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
