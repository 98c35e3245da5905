"""The same samples and figures on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main

TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]


def _on_two_processes(arguments: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tag_lightning", *arguments, *TWO],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_samples", "batch_size"),
    [
        pytest.param(9, 64, id="the last of three chunks incomplete"),
        pytest.param(3, 2000, id="a process without chunk and without data"),
    ],
)
def test_validation_gives_the_same_figures(
    num_samples: int, batch_size: int, trained: Path, tiny: TinyNetworks, tmp_path: Path
) -> None:
    settings = [
        f"--sampling.num_samples={num_samples}",
        f"--data.init_args.batch_size={batch_size}",
        "--trainer.limit_val_batches=null",
        f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}",
    ]
    main(predictor_arguments("validate", tmp_path / "one", tiny, "--trainer.devices=1", *settings))
    _on_two_processes(predictor_arguments("validate", tmp_path / "two", tiny, *settings))
    one, two = (json.loads((tmp_path / run / "results.json").read_text())["arms"] for run in ("one", "two"))
    assert one.keys() == two.keys()
    for arm, figures in one.items():
        for metric in ("fid", "accuracy", "time_gap", "num_samples"):
            assert two[arm][metric] == pytest.approx(figures[metric], rel=1e-4, abs=1e-6), arm
    alone, shared = (_scalars(tmp_path / run / "validate") for run in ("one", "two"))
    assert alone.keys() == shared.keys()
    for name in alone:
        if not name.endswith("/seconds"):
            assert shared[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_prediction_gives_the_same_samples_to_the_last_bit(trained: Path, tiny: TinyNetworks, tmp_path: Path) -> None:
    settings = ["--sampling.num_samples=9", f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"]
    main(predictor_arguments("predict", tmp_path / "one", tiny, "--trainer.devices=1", *settings))
    _on_two_processes(predictor_arguments("predict", tmp_path / "two", tiny, *settings))
    one, two = (np.load(tmp_path / run / "samples" / "dps+tag.npz")["samples"] for run in ("one", "two"))
    assert one.shape == (9, 3, 8, 8)
    assert np.array_equal(one, two)


def _scalars(run: Path) -> dict[str, float]:
    board = EventAccumulator(str(run))
    board.Reload()
    return {tag: board.Scalars(tag)[-1].value for tag in board.Tags()["scalars"] if tag != "epoch"}
