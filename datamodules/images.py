"""Image data: the embedded digits, CIFAR-10, any folder of images."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.loader import BatchIndices, batch_loader
from datamodules.tables import ImageFiles, ImageTable, MirroredTable, TintedTable

Split = Literal["train", "val", "test"]
Half = Literal["first", "second"]

_EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageDataModule(LightningDataModule):
    """Images in [-1, 1] with deterministic splits and a data order that survives a restart.

    Args:
        batch_size: Images a batch and process.
        num_workers: Processes that prepare batches; 0 is fastest for data that sit in memory.
        seed: Seed of the training order. The splits do not depend on it.
        half: Train on one half of the training images only, so that a guide and a judge share none.

    Attributes:
        num_classes: How many values each attribute takes; known after ``setup``.
    """

    num_classes: dict[str, int]

    def __init__(self, batch_size: int = 256, num_workers: int = 0, seed: int = 0, half: Half | None = None) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.half = half
        self._tables: dict[str, Dataset] = {}
        self._train_indices: BatchIndices | None = None
        self._resume_at = 0

    @abstractmethod
    def load(self, split: Split) -> ImageTable:
        """The images of one split, before halving and enlarging; sets ``num_classes``."""

    @abstractmethod
    def prepare_data(self) -> None:
        """Check that the data are there, and fetch them where that was asked for."""

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        """Every variant of the images that counts as data, for example each hue."""
        return table

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of one image."""
        return tuple(self.table("val")[[0]].x.shape[1:])

    def table(self, split: Split) -> Dataset:
        """One split, answering a list of indices with a ``Batch``."""
        if split not in self._tables:
            table = self.load(split)
            if split == "train" and self.half is not None:
                table = _half(table, self.half)
            self._tables[split] = self.enlarge(table, split)
        return self._tables[split]

    def setup(self, stage: str) -> None:
        """Load what the stage needs; every stage samples, so each checks itself against the validation data."""
        self.table("val")

    def train_dataloader(self) -> DataLoader[Any]:
        table = self.table("train")
        self._train_indices = self._indices(table, shuffle=True)
        self._train_indices.start, self._resume_at = self._resume_at, 0
        return batch_loader(table, self._train_indices, self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return batch_loader(self.table("val"), self._indices(self.table("val"), shuffle=False))

    def test_dataloader(self) -> DataLoader[Any]:
        return batch_loader(self.table("test"), self._indices(self.table("test"), shuffle=False))

    def reference_dataloader(self) -> DataLoader[Any]:
        """The training images in order, all of them on every process: what samples are compared with."""
        table = self.table("train")
        return batch_loader(table, BatchIndices(len(table), self.batch_size, shuffle=False))  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Batches of the current epoch that are behind the run."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress if self.trainer else None
        done = progress.current.processed if progress and not progress.is_last_batch else 0
        return {"batches_done": done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume_at = state_dict["batches_done"]

    def _indices(self, table: Dataset, shuffle: bool) -> BatchIndices:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BatchIndices(len(table), self.batch_size, shuffle, self.seed, rank, world_size)  # type: ignore[arg-type]


class DigitsDataModule(ImageDataModule):
    """The 1,797 handwritten digits that scikit-learn ships (UCI, 8x8 grey), resized.

    Attribute ``label`` is the digit; tinted images have a second one, ``hue``. 80 / 10 / 10 % of the digits
    train, validate and test, whatever the tint.

    Args:
        size: Height and width, at least 8.
        tinted: RGB images, every digit in each of 8 hues, instead of grey ones.
        batch_size: See ``ImageDataModule``.
        num_workers: See ``ImageDataModule``.
        seed: See ``ImageDataModule``.
        half: See ``ImageDataModule``.
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
        order = _fixed_order(len(table))
        bounds = {"train": (0, 1437), "val": (1437, 1617), "test": (1617, 1797)}[split]
        self.num_classes = {"label": 10} | ({"hue": 8} if self.tinted else {})
        return _select(table, order[slice(*bounds)])

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        return TintedTable(table) if self.tinted else table


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10, 32x32 RGB, in the files of its authors: 45,000 / 5,000 / 10,000 images.

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py``.
        download: Fetch the files where they are missing.
        mirror: Train on the mirror images as well.
        batch_size: See ``ImageDataModule``.
        num_workers: See ``ImageDataModule``.
        seed: See ``ImageDataModule``.
        half: See ``ImageDataModule``.
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
        order = _fixed_order(len(table))
        return _select(table, order[:45_000] if split == "train" else order[45_000:])

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


class ImageFolderDataModule(ImageDataModule):
    """Images in ``root/<split>/<class>/*``, the layout of torchvision's ImageFolder.

    Needs ``train`` and ``test``; where there is no ``val`` folder, a fixed tenth of ``train`` validates.
    Attribute ``label`` numbers the classes of ``train`` in alphabetical order.

    Args:
        root: The folder.
        size: Height and width the images are resized to: shorter side scaled, centre cut out.
        channels: 1 for grey, 3 for RGB.
        mirror: Train on the mirror images as well.
        in_memory: Decode all images once, at ``channels * size^2`` bytes each; else whenever one is used.
        batch_size: See ``ImageDataModule``.
        num_workers: See ``ImageDataModule``.
        seed: See ``ImageDataModule``.
        half: See ``ImageDataModule``.
    """

    def __init__(
        self,
        root: str,
        size: int = 32,
        channels: Literal[1, 3] = 3,
        mirror: bool = False,
        in_memory: bool = True,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        half: Half | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, half)
        self.root = Path(root)
        self.size = size
        self.channels = channels
        self.mirror = mirror
        self.in_memory = in_memory

    def prepare_data(self) -> None:
        for split in ("train", "test"):
            if not (self.root / split).is_dir():
                raise FileNotFoundError(
                    f"there is no folder {self.root / split}; an image folder is laid out as "
                    "root/train/<class>/*.png and root/test/<class>/*.png (root/val is optional)"
                )

    def load(self, split: Split) -> ImageTable:
        classes = self._classes()
        self.num_classes = {"label": len(classes)}
        carved = split != "test" and not (self.root / "val").is_dir()
        paths, labels = self._files("train" if carved else split, classes)
        if carved:
            order = _fixed_order(len(paths))
            cut = max(1, len(paths) // 10)
            chosen = (order[cut:] if split == "train" else order[:cut]).tolist()
            paths, labels = [paths[i] for i in chosen], [labels[i] for i in chosen]
        files = ImageFiles(paths, self.size, self.channels)
        return ImageTable(files.load() if self.in_memory else files, {"label": torch.tensor(labels)})

    def enlarge(self, table: ImageTable, split: Split) -> Dataset:
        return MirroredTable(table) if self.mirror and split == "train" else table

    def _classes(self) -> list[str]:
        classes = sorted(folder.name for folder in (self.root / "train").iterdir() if folder.is_dir())
        if not classes:
            raise ValueError(f"{self.root / 'train'} has no class folders; put each class in a folder of its own")
        return classes

    def _files(self, split: str, classes: list[str]) -> tuple[list[Path], list[int]]:
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            folder = self.root / split / name
            found = sorted(p for p in folder.glob("*") if p.suffix.lower() in _EXTENSIONS)
            if not found:
                raise ValueError(f"the class folder {folder} is missing or has no images; fill or remove the class")
            paths += found
            labels += [label] * len(found)
        return paths, labels


def _fixed_order(length: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(0))


def _select(table: ImageTable, indices: Tensor) -> ImageTable:
    chosen = indices.tolist()
    images = table.images
    if isinstance(images, ImageFiles):
        images = ImageFiles([images.paths[i] for i in chosen], images.size, images.channels)
    else:
        images = images[indices]
    return ImageTable(images, {name: values[indices] for name, values in table.attributes.items()})


def _half(table: ImageTable, half: Half) -> ImageTable:
    order = _fixed_order(len(table))
    cut = len(table) // 2
    return _select(table, order[:cut] if half == "first" else order[cut:])
