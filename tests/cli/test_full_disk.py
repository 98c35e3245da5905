"""A disk that fills up, and what killed processes left on it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.checkpoint_io import AtomicCheckpointIO
from tag_lightning.cli import main
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
