"""SIGTERM, Ctrl-C and power cuts, in training, in validation and while sampling: nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from interrupted_runs import assert_same_run, last_checkpoint, run_arguments
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main
from tag_lightning.evaluation import ArmSampler

LIMITS = [
    pytest.param(["--trainer.max_epochs=4"], id="max_epochs", marks=pytest.mark.slow),
    pytest.param(["--trainer.max_epochs=9", "--trainer.max_steps=8"], id="max_steps"),
]


class _PowerCutError(BaseException):
    pass


@pytest.fixture(scope="module", params=LIMITS)
def limits(request: pytest.FixtureRequest) -> list[str]:
    return request.param


@pytest.fixture(scope="module")
def whole(limits: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole")
    main(run_arguments(run, *limits))
    return run


@pytest.mark.parametrize("step", [4, 8])
def test_a_power_cut_while_sampling_costs_no_training(
    step: int, limits: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = ArmSampler.draw

    def cut(self: ArmSampler, *args: Any) -> Any:
        if last_checkpoint(tmp_path)["global_step"] == step:
            raise _PowerCutError
        return draw(self, *args)

    monkeypatch.setattr(ArmSampler, "draw", cut)
    with pytest.raises(_PowerCutError):
        main(run_arguments(tmp_path, *limits))
    monkeypatch.setattr(ArmSampler, "draw", draw)
    assert last_checkpoint(tmp_path)["global_step"] == step
    main(run_arguments(tmp_path, *limits, "--ckpt_path=last"))
    assert_same_run(whole, tmp_path)


def test_a_power_cut_before_the_last_checkpoint_of_the_training_changes_nothing(
    limits: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left then is the checkpoint after the validation, and only the end of the training is repeated."""
    save = ModelCheckpoint._save_checkpoint

    def cut(self: ModelCheckpoint, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 8:
            raise _PowerCutError
        save(self, trainer, *args)

    monkeypatch.setattr(ModelCheckpoint, "_save_checkpoint", cut)
    with pytest.raises(_PowerCutError):
        main(run_arguments(tmp_path, *limits))
    monkeypatch.setattr(ModelCheckpoint, "_save_checkpoint", save)
    main(run_arguments(tmp_path, *limits, "--ckpt_path=last"))
    assert_same_run(whole, tmp_path)


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
        main(run_arguments(tmp_path, *limits, f"--trainer.callbacks+={sender}"))
    assert stop.value.code == 128 + signum
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped by")]
    assert len(lines) == 1
    assert f"stopped by {signal.Signals(signum).name}: the training up to step {step} is in {tmp_path}" in lines[0]
    assert lines[0].endswith(f"python -m tag_lightning fit --config {tmp_path / 'config.yaml'} --ckpt_path last")
    assert last_checkpoint(tmp_path)["global_step"] == step
    main(run_arguments(tmp_path, *limits, "--ckpt_path=last"))
    assert_same_run(whole, tmp_path)


def test_the_command_that_goes_on_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sender = "{class_path: tiny_runs.SignalSender, init_args: {hook: on_train_batch_end, step: 2, signum: 15}}"
    with pytest.raises(SystemExit):
        main(run_arguments(tmp_path, "--trainer.max_epochs=2", f"--trainer.callbacks+={sender}"))
    command = capsys.readouterr().err.split("to go on: python -m tag_lightning ")[1].splitlines()[0]
    main(command.split())
    assert last_checkpoint(tmp_path)["global_step"] == 4


def test_a_signal_before_the_training_ends_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sender = "{class_path: tiny_runs.SignalSender, init_args: {hook: setup, step: 0, signum: 15}}"
    with pytest.raises(SystemExit) as stop:
        main(run_arguments(tmp_path, f"--trainer.callbacks+={sender}"))
    assert stop.value.code == 143
    assert "stopped by SIGTERM before there was anything to keep" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_handlers_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    main(run_arguments(tmp_path, "--trainer.max_epochs=2"))
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


def _stopped(running: subprocess.Popen[str], signum: int) -> tuple[int, float]:
    """Exit code after a signal, and the processor seconds until then, which a busy machine does not stretch."""
    before = sum(psutil.Process(running.pid).cpu_times()[:2])
    running.send_signal(signum)
    deadline = time.monotonic() + 120
    while True:
        pid, status, usage = os.wait4(running.pid, os.WNOHANG)
        if pid:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.returncode = os.waitstatus_to_exitcode(status)
    return running.returncode, usage.ru_utime + usage.ru_stime - before


@pytest.mark.parametrize(
    ("verb", "signum"),
    [
        ("fit", signal.SIGTERM),
        pytest.param("fit", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("predict", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("predict", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
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
        code, seconds = _stopped(process[0], signum)
    assert code == 128 + signum, log.read_text()
    assert seconds < 15
    assert "Traceback" not in log.read_text()
    if verb == "fit":
        assert "the training up to step 2 is in" in log.read_text()
        assert last_checkpoint(tmp_path / "run")["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("while_sampling", [False, True])
def test_two_processes_stop_together(
    while_sampling: bool, tiny: TinyNetworks, tmp_path: Path, process: list[subprocess.Popen[str]]
) -> None:
    """The first process alone gets the signal."""
    more = ["--trainer.strategy=ddp", "--trainer.devices=2", "--sampling.arms={unguided: {}}"]
    more += ["--sampling.task.init_args.features=auto", "--trainer.check_val_every_n_epoch=50"]
    if while_sampling:
        more += ["--sampling.num_samples=1000000", "--trainer.callbacks=tiny_runs.SaidBeforeDraw"]
        more += ["--trainer.check_val_every_n_epoch=1"]
    else:
        more += ["--trainer.max_epochs=500", "--trainer.callbacks=tiny_runs.SlowSteps"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-u",
                    "-m",
                    "tag_lightning",
                    *predictor_arguments("fit", tmp_path / "run", tiny, *more),
                ],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=file,
                text=True,
            )
        )
        _wait_for("drawing" if while_sampling else "number of training batches", log, process[0])
        time.sleep(3)
        started = time.monotonic()
        process[0].send_signal(signal.SIGTERM)
        assert process[0].wait(60) == 143, log.read_text()
    assert time.monotonic() - started < 15
    assert log.read_text().count("stopped by SIGTERM: the training up to step") == 1
    assert "Traceback" not in log.read_text()
    assert last_checkpoint(tmp_path / "run")["global_step"] > 0
