"""An evaluation that was interrupted goes on where it stopped, to the results of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main
from tag_lightning.diffusion import Denoiser
from tag_lightning.evaluation.chunk_store import ChunkStore

ARMS = (
    "--sampling.arms={unguided: {}, dps: {guidance: [{class_path: DPS}]}, "
    "both: {guidance: [{class_path: TemporalAlignment, init_args: {strength: 0.1}}, {class_path: DPS}]}}"
)
STEPS = 4


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass of the denoiser."""
    seen, forward = [], Denoiser.forward

    def counted(denoiser: Denoiser, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(args[0]))
        return forward(denoiser, *args, **kwargs)

    monkeypatch.setattr(Denoiser, "forward", counted)
    return seen


def _figures(run: Path) -> dict[str, dict[str, float]]:
    arms = json.loads((run / "results.json").read_text())["arms"]
    return {arm: {name: value for name, value in own.items() if name != "seconds"} for arm, own in arms.items()}


def test_a_killed_validation_repeated_has_the_results_of_one_that_was_not(
    tiny: TinyNetworks, tmp_path: Path, passes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = f"--ckpt_path={tiny.root / 'predictor'}"
    whole, killed = (predictor_arguments("validate", tmp_path / run, tiny, ARMS, weights) for run in ("whole", "cut"))
    main(whole)
    assert len(passes) == 3 * 2 * STEPS  # arms, chunks
    assert not (tmp_path / "whole" / "sampling_chunks").exists()

    kill = "--trainer.callbacks+={class_path: tiny_runs.KilledAtChunk, init_args: {count: 5}}"
    command = [sys.executable, "-m", "tag_lightning", *killed, kill]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cut" / "sampling_chunks").rglob("*.safetensors"))) == 5
    assert not (tmp_path / "cut" / "results.json").exists()

    passes.clear()
    capsys.readouterr()
    main(killed)
    assert len(passes) == STEPS
    assert _figures(tmp_path / "cut") == _figures(tmp_path / "whole")
    assert (tmp_path / "cut" / "arms.png").read_bytes() == (tmp_path / "whole" / "arms.png").read_bytes()
    said = capsys.readouterr().out
    assert [f"{n} of 6 samples of {arm} were drawn before" in said for n, arm in ((6, "dps"), (4, "both"))] == [
        True
    ] * 2
    assert not (tmp_path / "cut" / "sampling_chunks").exists()


def test_a_failed_prediction_goes_on(
    tiny: TinyNetworks, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (predictor_arguments("predict", tmp_path / run, tiny, ARMS) for run in ("whole", "cut"))
    main(whole)
    write = ChunkStore.write

    def fail(store: ChunkStore, *given: Any) -> None:
        write(store, *given)
        raise RuntimeError("no power")

    monkeypatch.setattr(ChunkStore, "write", fail)
    with pytest.raises(RuntimeError, match="no power"):
        main(cut)
    monkeypatch.setattr(ChunkStore, "write", write)
    passes.clear()
    main(cut)
    assert len(passes) == STEPS
    first, second = (np.load(tmp_path / run / "samples" / "both.npz")["samples"] for run in ("whole", "cut"))
    assert len(first) == 6
    assert np.array_equal(first, second)
    assert not (tmp_path / "cut" / "sampling_chunks").exists()
