"""A short training that is interrupted, and how it is compared with one that was not."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import denoiser_arguments


def run_arguments(run: Path, *more: str) -> list[str]:
    """A denoiser with averaged weights; four epochs of two steps, samples after the second and the fourth."""
    settings = [
        "--trainer.callbacks=[{class_path: WarmedUpEMA, init_args: {decay: 0.5}}]",
        "--trainer.check_val_every_n_epoch=2",
        "--trainer.log_every_n_steps=1",
        "--model.init_args.lr_scheduler={class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 3}}",
        "--sampling.arms={unguided: {}}",
        "--sampling.task.init_args.features=auto",
    ]
    return [*denoiser_arguments("fit", run), *settings, *more]


def last_checkpoint(run: Path) -> dict[str, Any]:
    """The contents of the last checkpoint of the run in that folder."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def _scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(run))
    board.Reload()
    names = [tag for tag in board.Tags()["scalars"] if not tag.endswith("/seconds")]
    # A validation that was cut is repeated, and writes the same point again.
    return {tag: list(dict.fromkeys((event.step, event.value) for event in board.Scalars(tag))) for tag in names}


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages, optimizer, learning rate, curves, results and the exported network are the same to the bit."""
    first, second = last_checkpoint(one), last_checkpoint(other)
    assert first["global_step"] == second["global_step"] == 8
    for part in ("state_dict", "current_model_state"):
        for name, value in first[part].items():
            assert torch.equal(second[part][name], value), (part, name)
    assert any(not torch.equal(v, first["current_model_state"][k]) for k, v in first["state_dict"].items())
    for state, expected in zip(second["optimizer_states"], first["optimizer_states"], strict=True):
        for key, values in expected["state"].items():
            assert all(torch.equal(state["state"][key][name], value) for name, value in values.items())
    assert first["lr_schedulers"] == second["lr_schedulers"] != []
    assert _scalars(one) == _scalars(other)
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    for result in results:
        for figures in result["arms"].values():
            figures.pop("seconds")
    assert results[0]["arms"] == results[1]["arms"]
    assert results[0]["global_step"] == results[1]["global_step"] == 8
    exported = [_files(run / "pretrained") for run in (one, other)]
    # The card names the run's folder.
    assert "README.md" in exported[0]
    assert exported[0].keys() == exported[1].keys()
    assert all(exported[0][name] == exported[1][name] for name in exported[0].keys() - {"README.md"})


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class CountedCalls(Callback):
    """Counts the calls of Python and C functions in a run, and kills the process without warning at one of them.

    Args:
        kill_at: Number of that call; 0 never kills.
        record: File for the spans of numbers within a phase, as JSON: ``{"run": [[first, last]], "draw": ...}``.
    """

    def __init__(self, kill_at: int = 0, record: str | None = None) -> None:
        self.kill_at, self.record, self.count = kill_at, record, 0
        self.spans: dict[str, list[list[int]]] = {"draw": [], "save_checkpoint": []}

    def _count(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        spans = self.spans.get(frame.f_code.co_name)
        if spans is not None and event == "call":
            spans.append([self.count, self.count])
        elif spans is not None and event == "return":
            spans[-1][1] = self.count

    def setup(self, *args: Any, **kwargs: Any) -> None:
        sys.setprofile(self._count)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        sys.setprofile(None)
        if self.record:
            Path(self.record).write_text(json.dumps({"run": [[1, self.count]], **self.spans}))
