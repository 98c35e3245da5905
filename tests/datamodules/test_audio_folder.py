"""Folders of sounds: cutting, mixing down, splitting, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tag_lightning.datamodules import AudioFolderDataModule

soundfile = pytest.importorskip("soundfile")

RATE, LENGTH = 8000, 64


def save(path: Path, values: np.ndarray, rate: int = RATE, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, rate, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 10 training and 3 test files with 2.5 clips each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for name in ("bell", "drum"):
            for i in range(count):
                save(tmp_path / split / name / f"{i}.wav", rng.uniform(-0.9, 0.9, 160), subtype="PCM_16")
    return tmp_path


def folder_data(folder: Path, rate: int = RATE) -> AudioFolderDataModule:
    return AudioFolderDataModule(str(folder), rate, LENGTH)


def test_a_file_is_cut_into_clips_and_its_rest_left_out(folder: Path) -> None:
    values = soundfile.read(folder / "test" / "drum" / "1.wav", dtype="int16")[0]
    data = folder_data(folder)
    data.prepare_data()
    batch = data.table("test")[[8, 9]]
    expected = torch.from_numpy(values[:128].astype(np.float32)).reshape(2, 1, LENGTH) / 32768
    assert torch.equal(batch.x, expected)
    assert batch.attributes["label"].tolist() == [1, 1]
    assert data.num_classes == {"label": 2}
    assert len(data.table("test")) == 12


@pytest.mark.parametrize("suffix", ["flac", "wav", "aiff", "ogg"])
def test_formats_and_channels(suffix: str, folder: Path) -> None:
    seconds = np.arange(4 * LENGTH) / RATE
    stereo = np.stack([0.5 * np.sin(2 * np.pi * 440 * seconds), 0.25 * np.sin(2 * np.pi * 440 * seconds)], 1)
    (folder / "test" / "bell" / "0.wav").unlink()
    save(folder / "test" / "bell" / f"0.{suffix}", stereo)
    clips = folder_data(folder).table("test")[[0, 1, 2, 3]].x
    accuracy = 0.05 if suffix == "ogg" else 1e-4
    np.testing.assert_allclose(clips.flatten().numpy(), stereo.mean(1), atol=accuracy)


def test_a_tenth_of_the_training_files_validates_unless_there_is_a_folder(folder: Path) -> None:
    data = folder_data(folder)
    assert (len(data.table("train")), len(data.table("val"))) == (36, 4)
    one = {tuple(clip) for clip in data.table("train").samples[:, 0].tolist()}
    assert not one & {tuple(clip) for clip in data.table("val").samples[:, 0].tolist()}
    for name in ("bell", "drum"):
        save(folder / "val" / name / "0.wav", np.zeros(LENGTH))
    data = folder_data(folder)
    assert (len(data.table("train")), len(data.table("val"))) == (40, 2)


def prepared(data: AudioFolderDataModule) -> None:
    data.prepare_data()
    data.table("test")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


# What replaces the file test/drum/1.wav, and the piece of the message beside its name.
MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another rate": (
        lambda path: save(path, np.zeros(200), 16000),
        "has 16000 Hz but sample_rate is 8000; set data.init_args.sample_rate 16000, or resample the file to 8000 Hz",
    ),
    "no bytes": (lambda path: path.write_bytes(b""), "cannot read the sound"),
    "text": (lambda path: path.write_text("la la la"), "cannot read the sound"),
    "truncated": (truncated, "cannot read the sound"),
    "no samples": (lambda path: save(path, np.zeros(0)), "has 0 samples, fewer than the 64 of one clip"),
    "too short": (lambda path: save(path, np.zeros(63)), "has 63 samples, fewer than the 64 of one clip; lower"),
    "NaN": (
        lambda path: save(path, np.array([np.nan] * 90, np.float32), subtype="FLOAT"),
        "has values that are NaN or infinite; repair or remove",
    ),
    "too loud": (
        lambda path: save(path, np.full(90, 1.7, np.float32), subtype="FLOAT"),
        r"has values up to 1.7, outside \[-1, 1\]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_file_is_named_in_one_line(mistake: str, folder: Path) -> None:
    spoil, message = MISTAKES[mistake]
    spoil(folder / "test" / "drum" / "1.wav")
    with pytest.raises(ValueError, match=message) as caught:
        prepared(folder_data(folder))
    assert str(folder / "test" / "drum" / "1.wav") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a folder of sounds has root/train/<class>/\*.wav"):
        folder_data(tmp_path / "nothing").prepare_data()
    for file in (folder / "train" / "drum").iterdir():
        file.unlink()
    (folder / "train" / "drum" / "notes.txt").write_text("no sound")
    with pytest.raises(ValueError, match="drum is missing or has no sounds; fill or remove the class"):
        folder_data(folder).prepare_data()


def test_without_soundfile_the_way_to_install_it_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"pip install 'tag_lightning\[audio\]'"):
        folder_data(folder).prepare_data()
