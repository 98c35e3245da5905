"""The same samples and figures on one process and on two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TASK, TinyNetworks, denoiser_arguments, predictor_arguments

from tag_lightning.cli import main

TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]


def _run_two(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tag_lightning", *arguments, *TWO],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def _on_two_processes(arguments: list[str]) -> None:
    finished = _run_two(arguments)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("num_samples", "batch_size"),
    [
        pytest.param(9, 64, id="the last of three chunks incomplete"),
        pytest.param(3, 2000, id="a process without chunk and without data", marks=pytest.mark.slow),
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


def test_prediction_gives_the_same_samples_to_the_last_bit(trained: Path, tiny: TinyNetworks, tmp_path: Path) -> None:
    settings = ["--sampling.num_samples=9", "--sampling.predict_arm=dps+tag"]
    settings.append(f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}")
    main(predictor_arguments("predict", tmp_path / "one", tiny, "--trainer.devices=1", *settings))
    _on_two_processes(predictor_arguments("predict", tmp_path / "two", tiny, *settings))
    one, two = (np.load(tmp_path / run / "samples" / "dps+tag.npz")["samples"] for run in ("one", "two"))
    assert one.shape == (9, 3, 8, 8)
    assert np.array_equal(one, two)


def _on_two_nodes(arguments: list[str]) -> None:
    """The commands of docs/scaling.md, both nodes on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    launcher += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [*arguments, *TWO, "--trainer.num_nodes=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen([*launcher, f"--node-rank={rank}", "-m", "tag_lightning", *command], env=environment)
        for rank in range(2)
    ]
    assert [node.wait(timeout=500) for node in nodes] == [0, 0]


def _on_one_and_on_four(verb: str, trained: Path, tiny: TinyNetworks, folder: Path, *settings: str) -> None:
    """Run a verb on one process, in ``folder/one``, and on two nodes of two, in ``folder/four``."""
    checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
    common = ["--sampling.num_samples=9", checkpoint, *settings]
    main(predictor_arguments(verb, folder / "one", tiny, "--trainer.devices=1", *common))
    _on_two_nodes(predictor_arguments(verb, folder / "four", tiny, *common))


@pytest.mark.slow
def test_two_nodes_of_two_processes_give_the_same_samples(trained: Path, tiny: TinyNetworks, tmp_path: Path) -> None:
    _on_one_and_on_four("predict", trained, tiny, tmp_path, "--sampling.predict_arm=dps+tag")
    one, four = (np.load(tmp_path / run / "samples" / "dps+tag.npz")["samples"] for run in ("one", "four"))
    assert one.shape == (9, 3, 8, 8)
    assert np.array_equal(one, four)


@pytest.mark.slow
def test_two_nodes_of_two_processes_give_the_same_figures(trained: Path, tiny: TinyNetworks, tmp_path: Path) -> None:
    metrics = f"{TASK}.metrics=[{{class_path: KID}}, {{class_path: PrecisionRecall}}]"
    _on_one_and_on_four("validate", trained, tiny, tmp_path, "--sampling.arms={unguided: {}}", metrics)
    one, four = (json.loads((tmp_path / run / "results.json").read_text())["arms"] for run in ("one", "four"))
    assert one.keys() == four.keys() == {"unguided"}
    figures, shared = one["unguided"], four["unguided"]
    assert figures.keys() == shared.keys() >= {"kid", "precision", "recall"}
    for metric in figures.keys() - {"seconds"}:
        assert shared[metric] == pytest.approx(figures[metric], rel=1e-4, abs=1e-6), metric


@pytest.mark.slow
def test_a_mistake_that_both_processes_find_is_told_once(tiny: TinyNetworks, tmp_path: Path) -> None:
    finished = _run_two(predictor_arguments("fit", tmp_path / "run", tiny, f"{TASK}.labels=[99]"))
    assert finished.returncode != 0
    assert finished.stderr.count("error: sampling.task.init_args.labels must be classes 0 .. 9") == 1
    assert finished.stderr.count("sampling.task.init_args.labels must be") == 1
    assert "Traceback" not in finished.stderr
    assert not list((tmp_path / "run").rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("verb", ["validate", "fit"])
def test_a_process_that_dies_takes_the_other_with_it(verb: str, rank: int, tiny: TinyNetworks, tmp_path: Path) -> None:
    dying = f"--trainer.callbacks={{class_path: tiny_runs.DyingRank, init_args: {{rank: {rank}}}}}"
    finished = _run_two(predictor_arguments(verb, tmp_path, tiny, dying))
    # The other process holds the pipes of this one until it ends.
    assert time.time() - (tmp_path / "died").stat().st_mtime < 60
    assert finished.returncode != 0
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_a_fit_on_two_processes_that_is_stopped_goes_on_as_if_it_was_not(tiny: TinyNetworks, tmp_path: Path) -> None:
    """Four epochs of three steps, stopped in the second."""
    settings = ["--trainer.limit_train_batches=3", "--trainer.log_every_n_steps=1", "--sampling.arms={unguided: {}}"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    _on_two_processes(predictor_arguments("fit", whole, tiny, *settings, "--trainer.max_epochs=4"))
    for last, more in (("5", []), ("12", ["--ckpt_path=last"])):
        steps = ["--trainer.max_epochs=4", f"--trainer.max_steps={last}"]
        _on_two_processes(predictor_arguments("fit", stopped, tiny, *settings, *steps, *more))
    first, second = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, stopped))
    assert first["global_step"] == second["global_step"] == 12
    assert all(torch.equal(first["state_dict"][name], value) for name, value in second["state_dict"].items())
    assert _scalars(stopped, "train/loss") == _scalars(whole, "train/loss")


@pytest.mark.slow
def test_dropout_of_two_processes_goes_on_too(tmp_path: Path) -> None:
    settings = ["--model.init_args.network.init_args.dropout=0.5", f"{TASK}.features=auto"]
    settings += ["--trainer.limit_train_batches=4", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    _on_two_processes(denoiser_arguments("fit", whole, *settings))
    for last, more in (("2", []), ("4", ["--ckpt_path=last", "--seed_everything=2"])):
        _on_two_processes(denoiser_arguments("fit", stopped, *settings, f"--trainer.max_steps={last}", *more))
    first, second = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, stopped))
    assert first["global_step"] == second["global_step"] == 4
    assert all(torch.equal(first["state_dict"][name], value) for name, value in second["state_dict"].items())


def _scalars(run: Path, *tags: str) -> dict[str, list[float]]:
    board = EventAccumulator(str(run))
    board.Reload()
    chosen = tags or [tag for tag in board.Tags()["scalars"] if tag != "epoch"]
    return {tag: [event.value for event in board.Scalars(tag)] for tag in chosen}
