"""Samples that no memory can hold are refused in one line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import TinyNetworks, denoiser_arguments, predictor_arguments, random_images

from tag_lightning import memory
from tag_lightning.cli import main
from tag_lightning.datamodules import DigitsDataModule, ImageFolderDataModule
from tag_lightning.memory import free_memory, memory_error, require_memory


def test_digits_of_an_absurd_size(tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(predictor_arguments("fit", tmp_path, tiny, "--data.init_args.size=40000"))
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "a batch of 64 images of 1 x 40000 x 40000" in line
    assert "lower data.init_args.size" in line


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_folder_of_images_of_an_absurd_size(in_memory: bool, tmp_path: Path) -> None:
    data = ImageFolderDataModule(str(random_images(tmp_path)), 100_000, in_memory=in_memory, cache=None)
    with pytest.raises(ValueError, match=r"a batch of 128 images of 3 x 100000 x 100000 .* lower data.init_args.size"):
        data.setup("fit")


def test_images_that_fit_in_batches_but_not_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(random_images(tmp_path))
    monkeypatch.setattr(memory, "free_memory", lambda: 20 * 3 * 16**2)
    ImageFolderDataModule(root, 16, in_memory=False, cache=None, batch_size=1).setup("fit")
    with pytest.raises(ValueError, match=r"40 images of 3 x 16 x 16 need .*in_memory false"):
        ImageFolderDataModule(root, 16, cache=None, batch_size=1).table("train")


def test_the_free_memory_is_told() -> None:
    assert 0 < free_memory() < math.inf
    require_memory(free_memory() / 2, "things", "take fewer")
    with pytest.raises(ValueError, match=r"things need [\d,]+\.\d GB of memory, and .* GB are free; take fewer"):
        require_memory(free_memory() + 1e12, "things", "take fewer")


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_LIMITS", tmp_path)
    for name, content in {"max": "5000\n", "current": "4000\n", "stat": "anon 900\ninactive_file 300\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert free_memory() == 1300
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 1e6


def test_memory_that_ran_out_is_told_with_a_way_out() -> None:
    caught = []
    for take in (lambda: torch.empty(2**55), lambda: np.empty(2**55), lambda: torch.ones(-1), lambda: bytes(2**62)):
        try:
            take()
        except (RuntimeError, MemoryError) as error:
            caught.append(memory_error(error))
    caught.append(memory_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")))
    assert caught[2] is None
    for error in (caught[0], caught[1], caught[3], caught[4]):
        assert "lower data.init_args.batch_size or sampling.chunk_size" in str(error)
    assert "you tried to allocate 144115188075855872 bytes" in str(caught[0])
    assert "Unable to allocate" in str(caught[1])
    assert "(CUDA out of memory. Tried to allocate 20.00 GiB);" in str(caught[4])


def test_memory_that_runs_out_in_training_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsDataModule, "prepare_data", lambda data: torch.empty(2**55))
    with pytest.raises(SystemExit) as stop:
        main(denoiser_arguments("fit", tmp_path))
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "memory ran out" in line
