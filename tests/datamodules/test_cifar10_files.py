"""CIFAR-10 from files in the layout of its authors, filled with invented images."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import cifar

from tag_lightning.datamodules import Batch, CIFAR10DataModule
from tag_lightning.datamodules.base import Split

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# 45,000 of the images train, so that fewer files would leave nothing to validate on.
PER_FILE, NUM_FILES, TESTED = 10_000, 5, 200
PIXELS = 3 * 32 * 32


def write(folder: Path, name: str, first: int, count: int) -> None:
    """One batch file: rows of 1024 red, 1024 green, 1024 blue bytes.

    The number of an image stands in its first three red bytes, its class follows from it, and its last blue byte
    is 255, the one before 0.
    """
    numbers = np.arange(first, first + count)
    data = np.full((count, PIXELS), 100, dtype=np.uint8)
    for byte in range(3):
        data[:, byte] = numbers >> (8 * byte) & 255
    data[:, 1024] = 51
    data[:, -2], data[:, -1] = 0, 255
    content = {"data": data, "labels": (numbers % 10).tolist(), "batch_label": name, "filenames": []}
    (folder / name).write_bytes(pickle.dumps(content, protocol=4))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("cifar10")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for k in range(NUM_FILES):
        write(folder, f"data_batch_{k + 1}", k * PER_FILE, PER_FILE)
    write(folder, "test_batch", NUM_FILES * PER_FILE, TESTED)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES, "num_cases_per_batch": PER_FILE}))
    yield root
    shutil.rmtree(root)  # pytest would keep these 150 MB of the last three runs


@pytest.fixture(autouse=True)
def _any_content_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision compares checksums with the true files'; that the files exist is enough here."""
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())


def everything(data: CIFAR10DataModule, split: Split) -> Batch:
    table = data.table(split)
    return table[list(range(len(table)))]  # type: ignore[arg-type]


def numbers(x: Tensor) -> Tensor:
    """Which image each one is, of ``[B, 3, 32, 32]`` in [-1, 1]."""
    first = ((x[:, 0, 0, :3] + 1) * 127.5).round().long()
    return first[:, 0] + 256 * first[:, 1] + 65536 * first[:, 2]


def table_numbers(data: CIFAR10DataModule, split: Split = "train") -> Tensor:
    """As ``numbers``, a few thousand images at a time."""
    table = data.table(split)
    parts = torch.arange(len(table)).split(5000)  # type: ignore[arg-type]
    return torch.cat([numbers(table[part.tolist()].x) for part in parts])


@pytest.fixture(scope="module")
def train_numbers(root: Path) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
        return table_numbers(CIFAR10DataModule(str(root), mirror=False))


def test_images_are_those_of_the_files(root: Path) -> None:
    data = CIFAR10DataModule(str(root))
    data.prepare_data()
    batch = everything(data, "val")
    assert batch.x.shape == (5000, 3, 32, 32)
    assert batch.x.dtype == torch.float32
    assert (float(batch.x.min()), float(batch.x.max())) == (-1, 1)
    assert data.sample_shape == (3, 32, 32)
    assert data.num_classes == {"label": 10}
    assert torch.equal(batch.attributes["label"], numbers(batch.x) % 10)
    # Bytes 0, 51, 100 and 255 in their places: channels first, then rows, then columns.
    expected = torch.full((3, 32, 32), 100 / 127.5 - 1)
    expected[1, 0, 0], expected[2, 31, 30], expected[2, 31, 31] = 51 / 127.5 - 1, -1, 1
    assert torch.allclose(batch.x[:, :, 1:], expected[:, 1:].expand(5000, 3, 31, 32))
    assert torch.allclose(batch.x[:, 1:], expected[1:].expand(5000, 2, 32, 32))


def test_splits_have_every_image_once_whatever_the_seed(root: Path, train_numbers: Tensor) -> None:
    data = CIFAR10DataModule(str(root), mirror=False, seed=5)
    splits = [table_numbers(data, split) for split in SPLITS]
    assert [len(found) for found in splits] == [45_000, 5_000, TESTED]
    assert torch.equal(torch.cat(splits[:2]).sort().values, torch.arange(50_000))
    assert torch.equal(splits[2], 50_000 + torch.arange(TESTED))
    assert torch.equal(splits[0], train_numbers)
    # Not the last file, which may differ from the others: as many of each.
    assert torch.bincount(splits[1] // PER_FILE, minlength=NUM_FILES).min() > 800


def test_halves_share_no_image(root: Path, train_numbers: Tensor) -> None:
    first, second = (
        table_numbers(CIFAR10DataModule(str(root), mirror=False, half=half)) for half in ("first", "second")
    )
    assert len(first) == len(second) == 22_500
    assert torch.equal(torch.cat((first, second)).sort().values, train_numbers.sort().values)
    halved = CIFAR10DataModule(str(root), half="first")
    assert len(halved.table("val")) == 5_000  # type: ignore[arg-type]


def test_only_training_images_are_mirrored(root: Path) -> None:
    data = CIFAR10DataModule(str(root))
    train = data.table("train")
    assert len(train) == 90_000  # type: ignore[arg-type]
    assert len(data.table("test")) == TESTED  # type: ignore[arg-type]
    rows = [0, 7, 44_999]
    plain, mirrored = train[rows], train[[45_000 + i for i in rows]]
    assert torch.equal(mirrored.x, plain.x.flip(-1))
    assert torch.equal(mirrored.attributes["label"], plain.attributes["label"])
    assert not torch.equal(mirrored.x, plain.x)
