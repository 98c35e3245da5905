"""Progress in logs: lines that say what, how far and how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from tag_lightning.callbacks.progress import PlainProgress, progress_bars
from tag_lightning.progress import Progress, tracked


def _trainer(step: int, rank: int = 0) -> Any:
    return SimpleNamespace(
        global_step=step,
        estimated_stepping_batches=100,
        is_global_zero=rank == 0,
        progress_bar_metrics={"train/loss": 0.25},
    )


def _lines(callback: PlainProgress, first_step: int, steps: range, rank: int = 0) -> None:
    callback.on_train_start(_trainer(first_step), None)
    for step in steps:
        callback.on_train_batch_end(_trainer(step, rank), None)


def test_a_line_has_step_loss_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    _lines(PlainProgress(every_seconds=0), 0, range(1, 3))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 1 of 100, train/loss 0.25, about ")


def test_a_resumed_run_estimates_from_its_own_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("tag_lightning.progress.time.monotonic", lambda: next(clock))
    _lines(PlainProgress(), 80, range(90, 91))
    assert "about 10 s left" in capsys.readouterr().out


def test_lines_are_seconds_apart_and_of_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    _lines(PlainProgress(every_seconds=3600), 0, range(1, 5))
    _lines(PlainProgress(every_seconds=0), 0, range(1, 5), rank=1)
    assert capsys.readouterr().out == ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds that progress lines sees."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("tag_lightning.progress.time.monotonic", lambda: clock.now)
    return clock


@pytest.mark.parametrize("visible", [True, False])
def test_sampling_ends_in_one_line(visible: bool, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("sampling dps (arm 1 of 2)", 6, "sample", visible)
    progress.advance(4)
    progress.advance(2)
    progress.close()
    out = capsys.readouterr().out
    assert out.startswith("sampling dps (arm 1 of 2): 6 samples in ") if visible else out == ""


def test_a_long_job_says_every_few_seconds_how_long_it_will_take(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress("sampling dps (arm 1 of 2)", 8, "sample", visible=True)
    for _ in range(40):  # a fifth of a sample a second
        clock.now += 1
        progress.advance(0.2)
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "sampling dps (arm 1 of 2): 2 of 8 samples, about 30 s left",
        "sampling dps (arm 1 of 2): 4 of 8 samples, about 20 s left",
        "sampling dps (arm 1 of 2): 6 of 8 samples, about 10 s left",
        "sampling dps (arm 1 of 2): 8 of 8 samples, about 0 s left",
        "sampling dps (arm 1 of 2): 8 samples in 40.0 s",
    ]


def test_a_bar_shows_whole_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    progress = Progress("sampling", 4, "sample", visible=True)
    seen = []
    for _ in range(28):
        progress.advance(1 / 7)
        seen.append(progress._bar.n)
    progress.close()
    assert seen == [k // 7 for k in range(1, 29)]


def test_batches_are_tracked_only_while_somebody_takes_them(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked([1, 2], "looking")
    assert list(tracked([1, 2], "looking")) == [1, 2]
    assert capsys.readouterr().out == ""
    for _ in tracked(range(3), "looking"):
        clock.now += 8
    lines = ["looking: 2 of 3 batches, about 8 s left", "looking: 3 batches in 24.0 s"]
    assert capsys.readouterr().out.splitlines() == lines


def test_bars_suit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    plain = progress_bars({})
    assert isinstance(plain[0], PlainProgress)
    assert isinstance(plain[1], ProgressBar)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert [type(callback) for callback in progress_bars({})] == [TQDMProgressBar]


@pytest.mark.parametrize("given", [{"enable_progress_bar": False}, {"callbacks": TQDMProgressBar()}])
def test_bars_of_the_configuration_stand(given: dict[str, Any]) -> None:
    assert progress_bars(given) == []
