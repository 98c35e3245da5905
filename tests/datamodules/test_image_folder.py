"""Folders of images: decoding, resizing, splitting, errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tag_lightning.datamodules import ImageFolderDataModule
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.tables import ImageFiles


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 10 training and 3 test images, 8x8 RGB."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for name in ("ant", "bee"):
            for i in range(count):
                _save(tmp_path / split / name / f"{i}.png", rng.integers(0, 256, (8, 8, 3)))
    return tmp_path


@pytest.fixture(autouse=True)
def _own_working_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the default cache out of the repository."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


def _images(data: ImageFolderDataModule, split: Split) -> torch.Tensor:
    table = data.table(split)
    return table[list(range(len(table)))].x  # type: ignore[arg-type]


def test_pixels_of_the_right_size_are_kept_exactly(folder: Path) -> None:
    data = ImageFolderDataModule(str(folder), size=8)
    batch = data.table("test")[[4]]
    pixels = torch.from_numpy(np.array(Image.open(folder / "test" / "bee" / "1.png"))).permute(2, 0, 1)
    assert torch.equal(batch.x[0], pixels.float() / 127.5 - 1)
    assert batch.attributes["label"].tolist() == [1]
    assert data.num_classes == {"label": 2}


def test_rgb_becomes_grey_and_grey_becomes_rgb(folder: Path) -> None:
    _save(folder / "test" / "ant" / "0.png", np.full((8, 8), 51))
    grey = ImageFolderDataModule(str(folder), size=8, channels=1)
    assert _images(grey, "test").shape == (6, 1, 8, 8)
    rgb = _images(ImageFolderDataModule(str(folder), size=8), "test")
    assert rgb.shape == (6, 3, 8, 8)
    assert torch.allclose(rgb[0], torch.tensor(-0.6))


@pytest.mark.parametrize(("height", "width"), [(16, 48), (48, 16)])
def test_the_centre_of_an_oblong_image_is_cut_out(height: int, width: int, folder: Path) -> None:
    pixels = np.zeros((height, width, 3))
    top, left = (height - 16) // 2, (width - 16) // 2
    pixels[top : top + 16, left : left + 16] = 255
    _save(folder / "test" / "ant" / "0.png", pixels)
    x = _images(ImageFolderDataModule(str(folder), size=8), "test")[0]
    assert x.shape == (3, 8, 8)
    assert x[:, 1:-1, 1:-1].min() > 0.9


@pytest.mark.parametrize("shape", [(5, 7), (33, 32), (8, 9), (100, 11)])
def test_any_shape_is_resized(shape: tuple[int, int], folder: Path) -> None:
    _save(folder / "test" / "ant" / "0.png", np.full((*shape, 3), 255))
    x = _images(ImageFolderDataModule(str(folder), size=8), "test")[0]
    assert torch.equal(x, torch.ones(3, 8, 8))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("half", [None, "first"])
def test_reading_lazily_gives_the_same(split: Split, mirror: bool, half: str | None, folder: Path) -> None:
    eager, lazy = (
        ImageFolderDataModule(str(folder), size=6, mirror=mirror, in_memory=in_memory, half=half)  # type: ignore[arg-type]
        for in_memory in (True, False)
    )
    assert torch.equal(_images(eager, split), _images(lazy, split))


def test_a_tenth_validates_where_there_is_no_folder_for_it(folder: Path) -> None:
    data = ImageFolderDataModule(str(folder), size=8)
    train, val = (_images(data, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (18, 2)
    rows = {x.numpy().tobytes() for x in (*train, *val)}
    assert len(rows) == 20
    assert torch.equal(val, _images(ImageFolderDataModule(str(folder), size=8, seed=5), "val"))


def test_a_folder_for_validation_is_used(folder: Path) -> None:
    for name, value in (("ant", 0), ("bee", 255)):
        _save(folder / "val" / name / "0.png", np.full((8, 8, 3), value))
    data = ImageFolderDataModule(str(folder), size=8)
    assert len(data.table("train")) == 20  # type: ignore[arg-type]
    assert torch.equal(_images(data, "val")[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


def test_mirrors_double_the_training_images_only(folder: Path) -> None:
    data = ImageFolderDataModule(str(folder), size=8, mirror=True)
    x = _images(data, "train")
    assert len(x) == 36
    assert torch.equal(x[18:], x[:18].flip(-1))
    assert len(_images(data, "val")) == 2


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .*train does not exist"):
        ImageFolderDataModule(str(tmp_path)).prepare_data()


def test_a_class_without_images_is_named(folder: Path) -> None:
    (folder / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"cat is missing or has no images"):
        ImageFolderDataModule(str(folder), size=8).table("train")


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_unreadable_image_is_named(in_memory: bool, folder: Path) -> None:
    (folder / "test" / "ant" / "0.png").write_bytes(b"no image")
    data = ImageFolderDataModule(str(folder), size=8, in_memory=in_memory)
    with pytest.raises(ValueError, match=r"cannot read the image .*0\.png"):
        _images(data, "test")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_to_eight(suffix: str, channels: Literal[1, 3], folder: Path) -> None:
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    (folder / "test" / "ant" / "0.png").unlink()
    Image.fromarray(ramp).save(folder / "test" / "ant" / f"0.{suffix}")
    x = _images(ImageFolderDataModule(str(folder), size=8, channels=channels), "test")[0]
    expected = torch.from_numpy(ramp.astype(np.float32)) / 32767.5 - 1
    assert x.shape == (channels, 8, 8)
    # Half a step of 8 bits.
    assert torch.allclose(x, expected.expand_as(x), rtol=0, atol=0.5 / 127.5 + 1e-6)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_no_known_range_are_refused(kind: type, folder: Path) -> None:
    Image.fromarray(np.zeros((8, 8), kind)).save(folder / "test" / "ant" / "deep.tif")
    with pytest.raises(ValueError, match=r"cannot read the image .*deep\.tif.*no known range, expected 8 or 16 bits"):
        ImageFolderDataModule(str(folder), size=8).table("test")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_training_lacks_is_named(split: Split, folder: Path) -> None:
    for name in ("ant", "bee", "cat"):
        _save(folder / split / name / "0.png", np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=rf"{split}.cat has no counterpart in .*train"):
        ImageFolderDataModule(str(folder), size=8).table("train")


def test_hidden_folders_are_passed_over(folder: Path) -> None:
    for place in ("train", "test", "train/ant"):
        _save(folder / place / ".ipynb_checkpoints" / "0.png", np.zeros((8, 8, 3)))
    data = ImageFolderDataModule(str(folder), size=8)
    assert len(_images(data, "train")) == 18
    assert len(_images(data, "test")) == 6
    assert data.num_classes == {"label": 2}


def test_folders_within_a_class_are_refused(folder: Path) -> None:
    _save(folder / "train" / "ant" / "queens" / "0.png", np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"ant contains the folder 'queens'"):
        ImageFolderDataModule(str(folder), size=8).table("train")


def test_images_without_a_size_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"size must be at least 1, got 0; set data\.init_args\.size"):
        ImageFolderDataModule(str(folder), size=0)


def test_the_exif_orientation_is_applied(folder: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, :] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    (folder / "test" / "ant" / "0.png").unlink()
    Image.fromarray(pixels).save(folder / "test" / "ant" / "0.png", exif=exif)
    x = _images(ImageFolderDataModule(str(folder), size=8), "test")[0]
    assert torch.equal(x[:, :, -1], torch.ones(3, 8))
    assert torch.equal(x[:, :, :-1], -torch.ones(3, 8, 7))


@pytest.mark.parametrize("in_memory", [True, False])
def test_hidden_files_are_ignored(in_memory: bool, folder: Path) -> None:
    for place in ("train", "test"):
        (folder / place / "ant" / "._0.png").write_bytes(b"resource fork")
    data = ImageFolderDataModule(str(folder), size=8, in_memory=in_memory)
    assert (len(_images(data, "train")), len(_images(data, "test"))) == (18, 6)


def test_a_single_training_image_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        _save(tmp_path / split / "ant" / "0.png", np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"train has 1 image, too few to train and validate on; .*folder val"):
        ImageFolderDataModule(str(tmp_path), size=8).prepare_data()


class _Decoded:
    """Counts the images that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        decode = ImageFiles._decode

        def counted(files: ImageFiles, path: Path) -> torch.Tensor:
            self.count += 1
            return decode(files, path)

        monkeypatch.setattr(ImageFiles, "_decode", counted)

    def by(self, folder: Path, **arguments: object) -> int:
        """Images that a new run decodes for training and validation."""
        before = self.count
        data = ImageFolderDataModule(str(folder), **{"size": 8, "cache": "cache"} | arguments)  # type: ignore[arg-type]
        data.prepare_data()
        _images(data, "train"), _images(data, "val")
        return self.count - before


def test_images_are_decoded_once_for_all_stages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ImageFolderDataModule(str(folder), size=8, cache=None)
    expected = [_images(plain, split) for split in ("train", "val", "test")]
    decoded = _Decoded(monkeypatch)
    assert decoded.by(folder) == 20
    assert decoded.by(folder, half="first", mirror=True, seed=3) == 0
    cached = ImageFolderDataModule(str(folder), size=8, cache="cache")
    assert all(torch.equal(_images(cached, s), x) for s, x in zip(("train", "val", "test"), expected, strict=True))
    assert len(list(Path("cache").iterdir())) == 2, "one for train, one for test"
    assert decoded.by(folder, cache=None) == 20
    assert decoded.by(folder, in_memory=False) == 20
    assert decoded.by(folder, channels=1) == 20
    assert len(list(Path("cache").iterdir())) == 3


@pytest.mark.parametrize("change", ["time", "size", "name", "new", "gone", "truncated", "garbage"])
def test_a_change_of_the_files_decodes_them_anew(change: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = _Decoded(monkeypatch)
    decoded.by(folder)
    (stored,) = Path("cache").iterdir()
    path = folder / "train" / "ant" / "0.png"
    if change == "time":
        os.utime(path, (1, 1))
    elif change == "size":
        state = path.stat()
        path.write_bytes(path.read_bytes() + b"0")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "name":
        path.rename(path.with_name("00.png"))
    elif change == "new":
        _save(path.with_name("10.png"), np.zeros((8, 8, 3)))
    elif change == "gone":
        path.unlink()
    else:
        stored.write_bytes(stored.read_bytes()[:-1] if change == "truncated" else b"garbage")
    assert decoded.by(folder) == {"new": 21, "gone": 19}.get(change, 20)
    assert decoded.by(folder) == 0
    assert list(Path("cache").iterdir()) == [stored]


def test_a_cache_that_cannot_be_written_is_named(folder: Path) -> None:
    Path("file").write_text("")
    data = ImageFolderDataModule(str(folder), size=8, cache="file/cache")
    with pytest.raises(OSError, match=r"cannot write into file/cache .*data\.init_args\.cache, or null"):
        data.prepare_data()
