"""``trainer.fast_dev_run`` tries everything and leaves a finished run's results alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main

SAMPLED = ("results.json", "time_gap.csv", "*.png", "*.npz", "config.yaml")


def _files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for pattern in SAMPLED for path in run.rglob(pattern)}


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_finished_run_keeps_its_results(
    verb: str, trained: Path, tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = _files(run)
    settings = ["--trainer.fast_dev_run=true", "--sampling.num_samples=500", "--sampling.strength=0.1"]
    main(predictor_arguments(verb, run, tiny, *settings))
    assert before
    assert _files(run) == before
    out = capsys.readouterr().out
    # At most one small chunk an arm; predict has no table.
    drawn = [line.rsplit(": ", 1)[1] for line in out.splitlines() if line.startswith("sampling ")]
    assert drawn
    assert all(line.startswith("4 samples in ") for line in drawn)
    assert ("Guided sampling" in out) == (verb != "predict")


def test_a_trial_writes_no_results(tiny: TinyNetworks, tmp_path: Path) -> None:
    main(predictor_arguments("fit", tmp_path, tiny, "--trainer.fast_dev_run=true"))
    assert not _files(tmp_path)
