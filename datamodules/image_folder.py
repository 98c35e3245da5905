"""Folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.image_cache import cached_images
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.tables import ImageFiles, ImageTable, MirroredTable, fixed_order, select

_EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


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
        self.size = size
        self.channels = channels
        self.mirror = mirror
        self.in_memory = in_memory
        self.cache = None if cache is None else Path(cache)

    @property
    def network_arguments(self) -> dict[str, Any]:
        # A missing folder is reported with the others, before training.
        classes = {"label": len(self._classes())} if (self.root / "train").is_dir() else {}
        return self.image_arguments(self.size, self.channels, classes)

    def prepare_data(self) -> None:
        for split in ("train", "test"):
            if not (self.root / split).is_dir():
                raise FileNotFoundError(
                    f"folder {self.root / split} does not exist; an image folder has "
                    "root/train/<class>/*.png and root/test/<class>/*.png (root/val is optional)"
                )
        if self.cache is not None:
            self.table("val")  # fills the cache once, before every process reads it

    def load(self, split: Split) -> ImageTable:
        classes = self._classes()
        self.num_classes = {"label": len(classes)}
        carved = split != "test" and not (self.root / "val").is_dir()
        folder = self.root / ("train" if carved else split)
        paths, labels = self._files(folder, classes)
        files = ImageFiles(paths, self.size, self.channels)
        cached = self.in_memory and self.cache is not None
        images = cached_images(files, folder, self.cache) if cached else files  # type: ignore[arg-type]
        table = ImageTable(images, {"label": torch.tensor(labels)})
        if carved:
            order = fixed_order(_at_least_two(folder, len(paths)))
            cut = max(1, len(paths) // 10)
            table = select(table, order[cut:] if split == "train" else order[:cut])
        if self.in_memory and isinstance(table.images, ImageFiles):
            table = ImageTable(table.images.load(), table.attributes)
        return table

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        return MirroredTable(table) if self.mirror and split == "train" else table

    def _classes(self) -> list[str]:
        classes = _folders(self.root / "train")
        if not classes:
            raise ValueError(f"{self.root / 'train'} has no class folders; put each class in a folder of its own")
        # All splits at once, so that a mistake in `test` shows before training.
        for folder in (self.root / "val", self.root / "test"):
            unknown = sorted(set(_folders(folder)) - set(classes)) if folder.is_dir() else []
            if unknown:
                raise ValueError(
                    f"the class folder {folder / unknown[0]} has no counterpart in {self.root / 'train'}; add it "
                    "there, or remove it here"
                )
        return classes

    def _files(self, parent: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            folder = parent / name
            if folder.is_dir() and (nested := _folders(folder)):
                raise ValueError(
                    f"the class folder {folder} contains the folder {nested[0]!r}, whose images would not be read; "
                    "move them up, or the folder elsewhere"
                )
            found = sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() in _EXTENSIONS)
            if not found:
                raise ValueError(f"the class folder {folder} is missing or has no images; fill or remove the class")
            paths += found
            labels += [label] * len(found)
        return paths, labels


def _at_least_two(folder: Path, count: int) -> int:
    if count < 2:
        raise ValueError(f"{folder} has {count} image, too few to train and validate on; add images, or a folder val")
    return count


def _folders(parent: Path) -> list[str]:
    """Sorted names of the folders in ``parent``, without hidden ones such as ``.ipynb_checkpoints``."""
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
