"""SIGTERM, Ctrl-C and power cuts, in training, in validation and while sampling: nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TinyNetworks, denoiser_arguments, predictor_arguments

from tag_lightning.cli import main
from tag_lightning.evaluation import ArmSampler

LIMITS = [["--trainer.max_epochs=4"], ["--trainer.max_epochs=9", "--trainer.max_steps=8"]]


class _PowerCutError(BaseException):
    pass


def _arguments(run: Path, *more: str) -> list[str]:
    """A denoiser with averaged weights; four epochs of two steps, samples after the second and the fourth."""
    settings = [
        "--trainer.callbacks=[{class_path: WarmedUpEMA, init_args: {decay: 0.5}}]",
        "--trainer.check_val_every_n_epoch=2",
        "--trainer.log_every_n_steps=1",
        "--sampling.arms={unguided: {}}",
        "--sampling.task.init_args.features=auto",
    ]
    return [*denoiser_arguments("fit", run), *settings, *more]


def _last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def _scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(run))
    board.Reload()
    names = [tag for tag in board.Tags()["scalars"] if not tag.endswith("/seconds")]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in names}


def _assert_same_run(one: Path, other: Path) -> None:
    first, second = _last(one), _last(other)
    assert first["global_step"] == second["global_step"] == 8
    for part in ("state_dict", "current_model_state"):
        for name, value in first[part].items():
            assert torch.equal(second[part][name], value), (part, name)
    assert any(not torch.equal(v, first["current_model_state"][k]) for k, v in first["state_dict"].items())
    for state, expected in zip(second["optimizer_states"], first["optimizer_states"], strict=True):
        for key, values in expected["state"].items():
            assert all(torch.equal(state["state"][key][name], value) for name, value in values.items())
    assert _scalars(one) == _scalars(other)
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    for result in results:
        for figures in result["arms"].values():
            figures.pop("seconds")
    assert results[0]["arms"] == results[1]["arms"]
    assert results[0]["global_step"] == results[1]["global_step"] == 8
    weights = [(run / "pretrained" / "diffusion_pytorch_model.safetensors").read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module", params=LIMITS, ids=["max_epochs", "max_steps"])
def limits(request: pytest.FixtureRequest) -> list[str]:
    return request.param


@pytest.fixture(scope="module")
def whole(limits: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole")
    main(_arguments(run, *limits))
    return run


@pytest.mark.parametrize("step", [4, 8])
def test_a_power_cut_while_sampling_costs_no_training(
    step: int, limits: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = ArmSampler.draw

    def cut(self: ArmSampler, *args: Any) -> Any:
        if _last(tmp_path)["global_step"] == step:
            raise _PowerCutError
        return draw(self, *args)

    monkeypatch.setattr(ArmSampler, "draw", cut)
    with pytest.raises(_PowerCutError):
        main(_arguments(tmp_path, *limits))
    monkeypatch.setattr(ArmSampler, "draw", draw)
    assert _last(tmp_path)["global_step"] == step
    main(_arguments(tmp_path, *limits, "--ckpt_path=last"))
    _assert_same_run(whole, tmp_path)


@pytest.mark.parametrize(
    ("hook", "step", "signum"),
    [
        ("on_train_batch_end", 3, signal.SIGTERM),
        ("on_train_batch_end", 4, signal.SIGTERM),
        ("on_train_batch_end", 6, signal.SIGINT),
        ("on_validation_batch_end", 8, signal.SIGTERM),
    ],
    ids=["within an epoch", "before the validation", "after an epoch", "within the last validation"],
)
def test_a_signal_saves_and_says_how_to_go_on(
    hook: str,
    step: int,
    signum: int,
    limits: list[str],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sender = f"{{class_path: tiny_runs.SignalSender, init_args: {{hook: {hook}, step: {step}, signum: {int(signum)}}}}}"
    with pytest.raises(SystemExit) as stop:
        main(_arguments(tmp_path, *limits, f"--trainer.callbacks+={sender}"))
    assert stop.value.code == 128 + signum
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped by")]
    assert len(lines) == 1
    assert f"stopped by {signal.Signals(signum).name}: the training up to step {step} is in {tmp_path}" in lines[0]
    assert lines[0].endswith(f"python -m tag_lightning fit --config {tmp_path / 'config.yaml'} --ckpt_path last")
    assert _last(tmp_path)["global_step"] == step
    main(_arguments(tmp_path, *limits, "--ckpt_path=last"))
    _assert_same_run(whole, tmp_path)


def test_the_command_that_goes_on_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sender = "{class_path: tiny_runs.SignalSender, init_args: {hook: on_train_batch_end, step: 2, signum: 15}}"
    with pytest.raises(SystemExit):
        main(_arguments(tmp_path, "--trainer.max_epochs=2", f"--trainer.callbacks+={sender}"))
    command = capsys.readouterr().err.split("to go on: python -m tag_lightning ")[1].splitlines()[0]
    main(command.split())
    assert _last(tmp_path)["global_step"] == 4


def test_a_signal_before_the_training_ends_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sender = "{class_path: tiny_runs.SignalSender, init_args: {hook: setup, step: 0, signum: 15}}"
    with pytest.raises(SystemExit) as stop:
        main(_arguments(tmp_path, f"--trainer.callbacks+={sender}"))
    assert stop.value.code == 143
    assert "stopped by SIGTERM before there was anything to keep" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_handlers_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    main(_arguments(tmp_path, "--trainer.max_epochs=2"))
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.fixture
def process() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for each in started:
        if each.poll() is None:
            each.kill()
            each.communicate()


def _wait_for(text: str, log: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while text not in log.read_text():
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("verb", "signum"), [("fit", signal.SIGTERM), ("fit", signal.SIGINT), ("predict", 15)])
def test_sampling_for_hours_ends_within_seconds(
    verb: str, signum: int, tiny: TinyNetworks, tmp_path: Path, process: list[subprocess.Popen[str]]
) -> None:
    more = [
        "--sampling.num_samples=1000000",
        "--sampling.arms={unguided: {}}",
        "--sampling.task.init_args.features=auto",
    ]
    arguments = predictor_arguments(verb, tmp_path / "run", tiny, *more, "--trainer.callbacks=tiny_runs.SaidBeforeDraw")
    log = tmp_path / "log"
    with log.open("w") as file:
        process.append(
            subprocess.Popen(
                [sys.executable, "-u", "-m", "tag_lightning", *arguments],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=file,
                stderr=file,
                text=True,
            )
        )
        _wait_for("drawing", log, process[0])
        started = time.monotonic()
        process[0].send_signal(signum)
        assert process[0].wait(60) == 128 + signum, log.read_text()
    assert time.monotonic() - started < 15
    assert "Traceback" not in log.read_text()
    if verb == "fit":
        assert "the training up to step 2 is in" in log.read_text()
        assert _last(tmp_path / "run")["global_step"] == 2
