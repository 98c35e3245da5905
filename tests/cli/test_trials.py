"""Lightning's ways of trying a run out leave nothing behind, and its ways of saving are understood."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main


def _contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def test_a_trial_leaves_a_finished_run_as_it_is(trained: Path, tiny: TinyNetworks, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = _contents(tmp_path / "run")
    main(predictor_arguments("fit", tmp_path / "run", tiny, "--trainer.fast_dev_run=true"))
    assert _contents(tmp_path / "run") == before


@pytest.mark.parametrize("setting", ["--trainer.enable_checkpointing=false", "--trainer.barebones=true"])
def test_a_run_without_checkpoints(setting: str, tiny: TinyNetworks, tmp_path: Path) -> None:
    main(predictor_arguments("fit", tmp_path / "run", tiny, setting))
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_going_on_from_a_checkpoint_callback_of_ones_own(tiny: TinyNetworks, tmp_path: Path) -> None:
    own = "--trainer.callbacks+={class_path: ModelCheckpoint, init_args: {save_last: true}}"
    main(predictor_arguments("fit", tmp_path / "run", tiny, own))
    longer = ["--trainer.max_epochs=2", "--ckpt_path=last"]
    main(predictor_arguments("fit", tmp_path / "run", tiny, own, *longer))
    # Lightning numbers what it would otherwise overwrite.
    steps = [torch.load(path, weights_only=True)["global_step"] for path in (tmp_path / "run").rglob("last*.ckpt")]
    assert max(steps) == 4
