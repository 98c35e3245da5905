"""Processes killed without warning at seeded moments: the run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted_runs import assert_same_run, run_arguments

from tag_lightning.cli import main

EPOCHS = "--trainer.max_epochs=4"
# Anywhere in the run, while it samples, while it writes a checkpoint.
PHASES = ["run"] * 4 + ["draw"] * 3 + ["save_checkpoint"] * 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, with the numbers of its calls in ``calls.json``."""
    run = tmp_path_factory.mktemp("whole")
    counter = f"{{class_path: interrupted_runs.CountedCalls, init_args: {{record: {run / 'calls.json'}}}}}"
    assert _process(run_arguments(run, EPOCHS, f"--trainer.callbacks+={counter}")) == 0
    return run


def _process(arguments: list[str]) -> int:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tag_lightning", *arguments]
    return subprocess.run(command, env=environment, capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "phase"), enumerate(PHASES))
def test_a_power_cut_at_any_moment_changes_nothing(seed: int, phase: str, whole: Path, tmp_path: Path) -> None:
    spans = json.loads((whole / "calls.json").read_text())[phase]
    chance = random.Random(seed)
    first, last = chance.choices(spans, [last - first + 1 for first, last in spans])[0]
    moment = chance.randint(first, last)
    killer = f"{{class_path: interrupted_runs.CountedCalls, init_args: {{kill_at: {moment}}}}}"
    assert _process(run_arguments(tmp_path, EPOCHS, f"--trainer.callbacks+={killer}")) == -signal.SIGKILL

    begun = (tmp_path / "checkpoints" / "last.ckpt").exists()
    main(run_arguments(tmp_path, EPOCHS, *(["--ckpt_path=last"] if begun else [])))
    assert_same_run(whole, tmp_path)
    # An older checkpoint may be left, complete, but no part of one.
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names >= {path.name for path in (whole / "checkpoints").iterdir()}
    assert all(name.endswith(".ckpt") for name in names)
