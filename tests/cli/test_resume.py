"""A run that is killed goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main


def _arguments(run: Path, tiny: TinyNetworks, *more: str) -> list[str]:
    """Three epochs of six steps, a checkpoint every second step, samples after the last epoch only."""
    checkpoint = (
        "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: "
        f"{run / 'checkpoints'}, save_last: true, every_n_train_steps: 2, enable_version_counter: false}}}}"
    )
    return predictor_arguments(
        "fit",
        run,
        tiny,
        "--trainer.max_epochs=3",
        "--data.init_args.batch_size=1900",
        "--trainer.limit_train_batches=null",
        f"--trainer.callbacks=[{checkpoint}]",
        "--sampling.every_n_epochs=3",
        *more,
    )


def _last(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def _kill_in_epoch(arguments: list[str], run: Path, first_step: int) -> int:
    """Start the command line, kill it without warning once a checkpoint of ``first_step`` or later is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tag_lightning", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    try:
        while not (run / "checkpoints" / "last.ckpt").exists() or _last(run)["global_step"] < first_step:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    return process.returncode


def test_a_run_killed_within_an_epoch_ends_with_the_weights_of_one_that_was_not(
    tiny: TinyNetworks, tmp_path: Path
) -> None:
    main(_arguments(tmp_path / "whole", tiny))
    whole = _last(tmp_path / "whole")
    assert whole["global_step"] == 18

    killed = tmp_path / "killed"
    slowed = "--trainer.callbacks+={class_path: tiny_runs.SlowSteps}"
    assert _kill_in_epoch(_arguments(killed, tiny, slowed), killed, first_step=8) == -signal.SIGKILL
    stopped_at = _last(killed)["global_step"]
    assert 6 < stopped_at < 12

    main(_arguments(killed, tiny, "--ckpt_path=last"))
    resumed = _last(killed)
    assert resumed["global_step"] == 18
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    for first, second in zip(whole["optimizer_states"], resumed["optimizer_states"], strict=True):
        for key, state in first["state"].items():
            assert all(torch.equal(second["state"][key][name], state[name]) for name in state)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_going_on_from_nothing_is_refused(
    verb: str, tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(predictor_arguments(verb, tmp_path / "run", tiny, "--ckpt_path=last"))
    assert stop.value.code == 1
    assert "has no last.ckpt; " in capsys.readouterr().err
