"""Files in one folder per class: the layout of torchvision's ImageFolder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.tables import fixed_order


class ClassFolders:
    """Files in ``root/<split>/<class>/*``, for splits ``train``, ``test`` and, if it is there, ``val``.

    Without ``val``, a fixed tenth of the files of ``train`` validates. Hidden files and folders are ignored.

    Args:
        root: The folder.
        kind: The files in words, ``images``.
        title: The folder in words, ``an image folder``.
        extensions: Suffixes of the files that are read, in lower case; the first in errors.
    """

    def __init__(self, root: Path, kind: str, title: str, extensions: Collection[str]) -> None:
        self.root = root
        self.kind = kind
        self.title = title
        self.extensions = tuple(extensions)

    def require(self) -> None:
        """Check that ``train`` and ``test`` exist.

        Raises:
            FileNotFoundError: If one does not.
        """
        suffix = self.extensions[0]
        for split in ("train", "test"):
            if not (self.root / split).is_dir():
                raise FileNotFoundError(
                    f"folder {self.root / split} does not exist; {self.title} has "
                    f"root/train/<class>/*{suffix} and root/test/<class>/*{suffix} (root/val is optional)"
                )

    @property
    def classes(self) -> list[str]:
        """Names of the classes of ``train`` in alphabetical order.

        Raises:
            ValueError: If there is none, or another split has more.
        """
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

    def folder(self, split: Split) -> Path:
        """The folder that has the files of a split."""
        return self.root / ("train" if self._is_carved(split) else split)

    def files(self, folder: Path) -> tuple[list[Path], list[int]]:
        """Files of ``folder``, class by class and sorted, and the number of each one's class.

        Raises:
            ValueError: If a class has no files, or contains folders.
        """
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            place = folder / name
            if place.is_dir() and (nested := _folders(place)):
                raise ValueError(
                    f"the class folder {place} contains the folder {nested[0]!r}, whose {self.kind} would not be read; "
                    "move them up, or the folder elsewhere"
                )
            found = sorted(p for p in place.glob("[!.]*") if p.suffix.lower() in self.extensions)
            if not found:
                raise ValueError(f"the class folder {place} is missing or has no {self.kind}; fill or remove the class")
            paths += found
            labels += [label] * len(found)
        return paths, labels

    def chosen(self, split: Split, count: int) -> Tensor | None:
        """Places of the files of a split among the ``count`` files of its folder; None for all of them.

        Raises:
            ValueError: If there are too few to train and validate on.
        """
        if not self._is_carved(split):
            return None
        if count < 2:
            raise ValueError(
                f"{self.folder(split)} has {count} {self.kind.removesuffix('s')}, too few to train and validate on; "
                f"add {self.kind}, or a folder val"
            )
        order, cut = fixed_order(count), max(1, count // 10)
        return order[cut:] if split == "train" else order[:cut]

    def _is_carved(self, split: Split) -> bool:
        return split != "test" and not (self.root / "val").is_dir()


def _folders(parent: Path) -> list[str]:
    """Sorted names of the folders in ``parent``, without hidden ones such as ``.ipynb_checkpoints``."""
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
