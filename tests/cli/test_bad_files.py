"""Checkpoints, networks and images that cannot be used end in one line that names them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import TASK, TinyNetworks, denoiser_arguments, predictor_arguments, seeded

from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import ImageClassifier, SimpleCNN
from tag_lightning.pretrained import save_pretrained

Failing = Callable[..., str]


class Code:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("verb", ["fit", "validate"])
@pytest.mark.parametrize("option", ["--ckpt_path", "--sampling.denoiser", f"{TASK}.guide"])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    verb: str, option: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path
) -> None:
    file = tmp_path / "code.ckpt"
    for write in (lambda value: file.write_bytes(pickle.dumps(value)), lambda value: torch.save(value, file)):
        write({"state_dict": {}, "code": Code(tmp_path / "executed")})
        message = error_of(predictor_arguments(verb, tmp_path / "run", tiny, f"{option}={file}"))
        assert f"{file} holds more than weights and plain values" in message
        assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("option", ["--ckpt_path", f"{TASK}.guide"])
def test_unreadable_checkpoints(
    option: str, error_of: Failing, trained: Path, tiny: TinyNetworks, tmp_path: Path
) -> None:
    file = tmp_path / "broken.ckpt"
    arguments = predictor_arguments("validate", tmp_path / "run", tiny, f"{option}={file}")
    error_of(arguments)
    data = (trained / "checkpoints" / "last.ckpt").read_bytes()
    for content in (data[: len(data) // 2], b"", b"not a checkpoint"):
        file.write_bytes(content)
        assert str(file) in error_of(arguments)
    torch.save({"weights": torch.zeros(1)}, file)
    assert f"{file} is not a Lightning checkpoint" in error_of(arguments)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "loops": {}}, file)
    assert "not made by tag_lightning" in error_of(arguments)


def test_a_checkpoint_of_another_architecture_or_kind(
    error_of: Failing, trained: Path, tiny: TinyNetworks, tmp_path: Path
) -> None:
    checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
    wider = "--model.init_args.network.init_args.widths=[8,16]"
    message = error_of(predictor_arguments("validate", tmp_path, tiny, checkpoint, wider))
    assert "widths [8, 8] there and [8, 16] here" in message
    message = error_of(denoiser_arguments("validate", tmp_path, checkpoint, f"{TASK}.features=auto"))
    assert "holds a SimpleCNN but a UNet2DModel is configured" in message


def test_networks_of_different_schedules(error_of: Failing, tiny: TinyNetworks, tmp_path: Path) -> None:
    schedule = LinearSchedule(num_timesteps=30)
    save_pretrained(tmp_path / "longer", seeded(lambda: SimpleCNN(8, num_timesteps=30, widths=(8, 8)), 0), schedule)
    for role in ("predictor", "time_gap_predictor"):
        message = error_of(predictor_arguments("fit", tmp_path, tiny, f"--sampling.{role}={tmp_path / 'longer'}"))
        assert "has T = 30 timesteps but the denoiser has 20" in message
    other = "--model.init_args.schedule.init_args.beta_end=0.05"
    assert "different noise schedules" in error_of(predictor_arguments("fit", tmp_path, tiny, other))


def test_networks_in_each_others_place(error_of: Failing, tiny: TinyNetworks, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "four", seeded(lambda: ImageClassifier(num_classes=4, widths=(8, 8)), 0), None)
    for role in ("guide", "judge"):
        message = error_of(predictor_arguments("fit", tmp_path, tiny, f"{TASK}.{role}={tmp_path / 'four'}"))
        assert f"sampling.task.init_args.{role} " in message
        assert "4 classes apart, but the data have 10 of 'label'" in message
    same = f"{TASK}.guide={tiny.root / 'judge'}"
    assert "the network that guides must not score" in error_of(predictor_arguments("fit", tmp_path, tiny, same))
    guide = tiny.root / "guide"
    assert "it is not a denoiser" in error_of(
        predictor_arguments("fit", tmp_path, tiny, f"--sampling.denoiser={guide}")
    )
    predictor = f"--sampling.predictor={guide}"
    assert "it was not trained on noisy samples by this package" in error_of(
        predictor_arguments("fit", tmp_path, tiny, predictor)
    )
    denoiser = f"--sampling.predictor={tiny.root / 'denoiser'}"
    assert "sampling.predictor" in error_of(predictor_arguments("fit", tmp_path, tiny, denoiser))


@pytest.mark.parametrize("mistake", ["corrupt", "corrupt, found by a worker", "empty", "no class", "no folder"])
def test_a_broken_image_folder(mistake: str, error_of: Failing, tiny: TinyNetworks, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for split in ("train", "test"):
        for name in "ab":
            (images / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(images / split / name / f"{i}.png")
    culprit = images / "train" / "a"
    if mistake.startswith("corrupt"):
        culprit = culprit / "2.png"
        culprit.write_bytes(culprit.read_bytes()[:40])
    elif mistake == "empty":
        for file in culprit.iterdir():
            file.unlink()
    else:
        culprit = images / "train"
        for file in sorted(culprit.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        if mistake == "no folder":
            culprit.rmdir()
    arguments = [a for a in predictor_arguments("fit", tmp_path / "run", tiny) if not a.startswith("--data")]
    data = ["--data=ImageFolderDataModule", f"--data.init_args.root={images}", "--data.init_args.size=8"]
    data += [f"{TASK}.guide=null", f"{TASK}.judge=null", f"{TASK}.features=auto"]
    if mistake.endswith("worker"):
        data += ["--data.init_args.in_memory=false", "--data.init_args.num_workers=1"]
    message = error_of([*arguments, *data])
    assert str(culprit) in message
    assert "Traceback (most" not in message
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_absent_data_set(error_of: Failing, tiny: TinyNetworks, tmp_path: Path) -> None:
    arguments = [a for a in predictor_arguments("fit", tmp_path / "run", tiny) if not a.startswith("--data")]
    data = ["--data=CIFAR10DataModule", f"--data.init_args.root={tmp_path}"]
    assert "set data.init_args.download=true" in error_of([*arguments, *data])
