"""Folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.class_folders import ClassFolders
from tag_lightning.datamodules.image_cache import cached_images
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.tables import ImageFiles, ImageTable, MirroredTable, select

_EXTENSIONS = (".png", ".bmp", ".gif", ".jpeg", ".jpg", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolderDataModule(ImageDataModule):
    """Images in ``root/<split>/<class>/*``, the layout of torchvision's ImageFolder.

    ``train`` and ``test`` are required; without ``val``, a fixed tenth of ``train`` validates. Attribute ``label``
    numbers the classes of ``train`` in alphabetical order. Hidden files and folders are ignored.

    Args:
        root: The folder.
        size: Height and width after resizing: the shorter side is scaled, the centre cropped.
        channels: 1 for grey, 3 for RGB.
        mirror: Train on the mirror images as well.
        in_memory: Decode all images once and keep them, ``channels * size^2`` bytes each; False decodes on access.
        cache: Folder for decoded images that are kept in memory; null decodes them anew in every run.
        batch_size: Images per batch and process.
        **kwargs: Arguments of ``ImageDataModule``.

    Raises:
        ValueError: If ``size`` is below 1, or a class has no images in a split, is missing in ``train`` or contains
            folders.
    """

    def __init__(
        self,
        root: str,
        size: int = 32,
        channels: Literal[1, 3] = 3,
        mirror: bool = False,
        in_memory: bool = True,
        cache: str | None = "data/images",
        batch_size: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size, **kwargs)
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}; set data.init_args.size")
        self.root = Path(root)
        self._folders = ClassFolders(self.root, "images", "an image folder", _EXTENSIONS)
        self.size = size
        self.channels = channels
        self.mirror = mirror
        self.in_memory = in_memory
        self.cache = None if cache is None else Path(cache)

    @property
    def network_arguments(self) -> dict[str, Any]:
        # A missing folder is reported with the others, before training.
        classes = {"label": len(self._folders.classes)} if (self.root / "train").is_dir() else {}
        return self.image_arguments(self.size, self.channels, classes)

    def prepare_data(self) -> None:
        self._folders.require()
        if self.cache is not None:
            self.table("val")  # fills the cache once, before every process reads it

    def load(self, split: Split) -> ImageTable:
        self.num_classes = {"label": len(self._folders.classes)}
        folder = self._folders.folder(split)
        paths, labels = self._folders.files(folder)
        in_memory = len(paths) if self.in_memory else 0
        self.require_memory(in_memory, self.size, self.channels, 1, "set data.init_args.in_memory false, or lower size")
        files = ImageFiles(paths, self.size, self.channels)
        cached = self.in_memory and self.cache is not None
        images = cached_images(files, folder, self.cache) if cached else files  # type: ignore[arg-type]
        table = ImageTable(images, {"label": torch.tensor(labels)})
        if (chosen := self._folders.chosen(split, len(paths))) is not None:
            table = select(table, chosen)
        if self.in_memory and isinstance(table.images, ImageFiles):
            table = ImageTable(table.images.load(), table.attributes)
        return table

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        return MirroredTable(table) if self.mirror and split == "train" else table
