"""TensorBoard's curves when a run is taken up again, and what a run that fails its checks leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TASK, TinyNetworks, predictor_arguments

from tag_lightning.cli import main

Curves = dict[str, list[tuple[int, float]]]


def _curves(run: Path) -> Curves:
    """Step and value of every scalar; Lightning writes ``epoch`` with each group of them."""
    board = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    tags = board.Tags()
    scalars = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags["scalars"]}
    pictures = {tag: [(e.step, 0.0) for e in board.Images(tag)] for tag in tags["images"]}
    curves = {tag: points for tag, points in (scalars | pictures).items() if points}
    return {tag: points for tag, points in curves.items() if tag != "epoch" and not tag.endswith("/seconds")}


def _fit(run: Path, tiny: TinyNetworks, *more: str) -> Curves:
    """Three epochs of three steps, samples after each, every step in the curves."""
    if run.exists():
        time.sleep(1)  # event files are read in the order of the seconds in their names
    main(
        predictor_arguments(
            "fit",
            run,
            tiny,
            "--trainer.max_epochs=3",
            "--trainer.limit_train_batches=3",
            "--trainer.log_every_n_steps=1",
            "--sampling.arms={unguided: {}}",
            *more,
        )
    )
    return _curves(run)


def _checkpoints(run: Path, settings: str) -> str:
    arguments = f"{{dirpath: {run / 'checkpoints'}, save_last: true, enable_version_counter: false, {settings}}}"
    return f"--trainer.callbacks+={{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {arguments}}}"


def _fail_at(step: int) -> str:
    return f"--trainer.callbacks+={{class_path: tiny_runs.FailingStep, init_args: {{step: {step}}}}}"


@pytest.fixture(scope="module")
def whole(tiny: TinyNetworks, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """The curves of a run from beginning to end."""
    return _fit(tmp_path_factory.mktemp("curves") / "whole", tiny)


@pytest.mark.parametrize(
    ("saved", "fails_at"),
    [
        pytest.param("every_n_train_steps: 2", 6, id="within an epoch"),
        pytest.param("every_n_train_steps: 3", 5, id="at the last batch, then validated"),
        pytest.param("every_n_epochs: 1", 5, id="at the end of an epoch", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "limit", [pytest.param("--trainer.max_steps=-1", marks=pytest.mark.slow), "--trainer.max_steps=9"]
)
def test_a_resumed_run_has_the_curves_of_one_that_was_not_stopped(
    saved: str, fails_at: int, limit: str, whole: Curves, tiny: TinyNetworks, tmp_path: Path
) -> None:
    checkpoints = _checkpoints(tmp_path, saved)
    with pytest.raises(RuntimeError, match="as asked for"):
        _fit(tmp_path, tiny, limit, checkpoints, _fail_at(fails_at))
    assert _fit(tmp_path, tiny, limit, checkpoints, "--ckpt_path=last") == whole


def test_whole_curves_have_every_step_once(whole: Curves) -> None:
    assert [step for step, _ in whole["train/loss"]] == list(range(9))
    for name in ("val/loss", "unguided/fid", "samples/unguided"):
        assert [step for step, _ in whole[name]] == [2, 5, 8]


def test_a_fresh_run_in_the_same_folder_shows_nothing_of_the_old_one(
    whole: Curves, tiny: TinyNetworks, tmp_path: Path
) -> None:
    _fit(tmp_path, tiny, "--trainer.max_epochs=4", "--sampling.arms={other: {}}", "--seed_everything=1")
    assert _fit(tmp_path, tiny) == whole


def test_evaluations_leave_the_curves_alone_and_count_once(tiny: TinyNetworks, tmp_path: Path) -> None:
    before = _fit(tmp_path, tiny)
    config = (tmp_path / "config.yaml").read_bytes()
    for _ in range(2):
        main(predictor_arguments("validate", tmp_path, tiny, "--ckpt_path=last", "--sampling.arms={unguided: {}}"))
    assert _curves(tmp_path) == before
    assert (tmp_path / "config.yaml").read_bytes() == config
    curves = _curves(tmp_path / "validate")
    assert {"val/loss", "unguided/fid", "samples/unguided"} <= curves.keys()
    assert all(len(points) == 1 for points in curves.values())


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_run_that_fails_its_checks_writes_nothing(verb: str, tiny: TinyNetworks, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(predictor_arguments(verb, tmp_path / "run", tiny, f"{TASK}.labels=[99]"))
    assert not list(tmp_path.rglob("*.*"))


def test_a_run_that_fails_its_checks_leaves_the_earlier_one_as_it_is(tiny: TinyNetworks, tmp_path: Path) -> None:
    _fit(tmp_path, tiny)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        main(predictor_arguments("fit", tmp_path, tiny, f"{TASK}.labels=[99]"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
