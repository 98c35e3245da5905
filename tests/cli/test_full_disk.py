"""A disk that fills up, and what killed processes left on it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import TinyNetworks, predictor_arguments, random_images

from tag_lightning.checkpoint_io import AtomicCheckpointIO
from tag_lightning.cli import main
from tag_lightning.datamodules import ImageFolderDataModule, MoleculeFilesDataModule, qm9
from tag_lightning.datamodules.drawn_chunks import drawn_chunks
from tag_lightning.datamodules.molecule_store import Molecules
from tag_lightning.datamodules.reference_smiles import reference_smiles
from tag_lightning.files import remove_leftovers, replacing


class _FullDisk:
    """A file on a disk with room for some bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _fill(monkeypatch: pytest.MonkeyPatch, room: int = 5000) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = opened(path, mode, *args, **kwargs)
        return _FullDisk(file, room) if mode == "wb" and path.name.startswith(".last.ckpt") else file

    monkeypatch.setattr(Path, "open", full)


def test_a_full_disk_is_one_error_and_the_earlier_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(10)}, path)
    before = path.read_bytes()
    _fill(monkeypatch)
    with pytest.raises(OSError, match=rf"cannot write into {tmp_path} \(No space left on device\); .*free space"):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_up_in_training_is_one_line(
    tiny: TinyNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        main(predictor_arguments("fit", tmp_path, tiny))
    assert stop.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert f"cannot write into {tmp_path / 'checkpoints'} (No space left on device); choose another folder" in lines[0]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_disk_that_is_really_full(tiny: TinyNetworks, tmp_path: Path) -> None:
    """On a file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk]).returncode:
        pytest.skip("only the administrator can mount a small disk")
    try:
        wide = "--model.init_args.network.init_args.widths=[64,64]"
        command = [sys.executable, "-m", "tag_lightning", *predictor_arguments("fit", disk / "run", tiny, wide)]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 1
        assert "Traceback" not in finished.stderr
        assert finished.stderr.splitlines()[-1].startswith(f"error: cannot write into {disk / 'run'}")
        assert "No space left on device" in finished.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def _dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_dead_processes_go_at_the_next_start(tmp_path: Path, tiny: TinyNetworks) -> None:
    with replacing(tmp_path / "checkpoints" / "last.ckpt") as mine:
        mine.write_bytes(b"being written")
        dead = mine.with_name(mine.name.replace(f"@{os.getpid()}.", f"@{_dead()}."))
        dead.write_bytes(b"left behind")
        old = mine.with_name(f".last.ckpt.{_dead()}.tmp")
        old.write_bytes(b"left behind")
        folder = tmp_path / dead.name.replace("last.ckpt", "pretrained")
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        elsewhere = mine.with_name(f".last.ckpt.another-machine@{_dead()}.tmp")
        parent = mine.with_name(f".last.ckpt.{os.getppid()}.tmp")
        others = [elsewhere, parent, tmp_path / ".notes.tmp", tmp_path / "x.1.tmp"]
        for path in others:
            path.write_bytes(b"of somebody else")
        remove_leftovers(tmp_path)
        assert mine.exists()
        assert not any(path.exists() for path in (dead, old, folder))
        assert all(path.exists() for path in others)
        dead.write_bytes(b"left behind")
        main(predictor_arguments("validate", tmp_path, tiny, "--sampling.arms={unguided: {}}"))
        assert mine.exists()
        assert not dead.exists()


def _left_in(folder: Path) -> Path:
    """What a killed process left there."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "molecules.safetensors") as mine:
        mine.touch()
        left = mine.with_name(mine.name.replace(f"@{os.getpid()}.", f"@{_dead()}."))
    left.write_bytes(b"left behind")
    return left


def test_leftovers_of_other_machines_go_after_a_week(tmp_path: Path) -> None:
    ages = {"file": 8, "folder": 8, "new": 6}
    paths = {name: tmp_path / f".{name}.another-machine@{os.getpid()}.tmp" for name in ages}
    for name, path in paths.items():
        path.mkdir() if name == "folder" else path.touch()
        then = time.time() - ages[name] * 24 * 3600
        os.utime(path, (then, then))
    remove_leftovers(tmp_path)
    assert [name for name, path in paths.items() if path.exists()] == ["new"]


def _cache_molecules(cache: Path) -> None:
    MoleculeFilesDataModule(str(cache.parent / "some.smi"), cache=str(cache)).prepare_data()


def _cache_images(cache: Path) -> None:
    source = random_images(cache.parent / "images")
    ImageFolderDataModule(str(source), size=8, cache=str(cache)).prepare_data()


def _cache_smiles(cache: Path) -> None:
    molecules = Molecules.packed([(np.array([8, 1, 1]), np.eye(3))], {}, ["O"])
    reference_smiles(molecules, cache, "known")


def _cache_chunks(cache: Path) -> None:
    drawn_chunks(cache / "0123", 2, 2, lambda indices: {"x": torch.zeros(len(indices))}, "drawing")


def _download(cache: Path) -> None:
    with suppress(OSError):
        qm9._fetch(qm9.Download("lost.txt", "file:///lost", ""), cache)


@pytest.mark.parametrize(
    "write", [_cache_molecules, _cache_images, _cache_smiles, _cache_chunks, _download], ids=lambda each: each.__name__
)
def test_leftovers_in_a_cache_go_when_it_is_written(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "some.smi").write_text("".join(f"{'C' * length}\n" for length in range(1, 11)))
    left = _left_in(tmp_path / "cache")
    deeper = _left_in(tmp_path / "cache" / "4567")
    write(tmp_path / "cache")
    assert not left.exists()
    assert not deeper.exists()
