"""What the data say about the network holds unless the user says otherwise; schedules are as long as the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tag_lightning.cli import main
from tag_lightning.pretrained import load_pretrained

DIGITS = ["fit", "--data=DigitsDataModule", "--data.size=8", "--data.batch_size=256", "--trainer.accelerator=cpu"]
DIGITS += ["--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
CLASSIFIER = ["--model=PropertyModule", "--model.network=ImageClassifier", "--model.network.widths=[8,8]"]
CLASSIFIER += ["--model.network.dropout=0"]  # Lightning does not restore the random numbers of dropout
ONE_CYCLE = "{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {max_lr: 0.001}}"
COSINE = "{class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: -1}}"


def fit(run: Path, *more: str) -> None:
    main([*DIGITS, *CLASSIFIER, f"--trainer.default_root_dir={run}", *more])


def schedule(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["lr_schedulers"][0]


def test_channels_and_classes_follow_from_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, "--model.attribute=hue", "--trainer.max_steps=1")
    network = load_pretrained(tmp_path / "pretrained").network
    assert network.num_classes == 8
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["init_args"]["num_classes"] == 8
    fit(tmp_path / "grey", "--data.tinted=false", "--trainer.max_steps=1")
    assert load_pretrained(tmp_path / "grey" / "pretrained").network.config.in_channels == 1


def test_an_argument_of_the_user_is_kept_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, "--model.network.num_classes=10", "--model.attribute=hue", "--trainer.max_steps=1")
    assert "8 classes of 'hue' but the network has 10" in capsys.readouterr().err


def test_a_schedule_is_as_long_as_a_run_in_steps(tmp_path: Path) -> None:
    fit(tmp_path, f"--model.lr_scheduler={ONE_CYCLE}", "--trainer.max_steps=3")
    assert schedule(tmp_path)["total_steps"] == 3


def test_a_schedule_is_as_long_as_a_run_in_epochs_also_when_it_is_resumed(tmp_path: Path) -> None:
    options = [f"--model.lr_scheduler={COSINE}", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"]
    cut = "[{class_path: tiny_runs.SignalSender, init_args: {hook: on_train_batch_end, step: 3, signum: 15}}]"
    with pytest.raises(SystemExit):
        fit(tmp_path, *options, f"--trainer.callbacks={cut}")
    fit(tmp_path, *options, "--ckpt_path=last")
    assert schedule(tmp_path)["T_max"] == 4
    assert schedule(tmp_path)["_last_lr"] == pytest.approx([0.0], abs=1e-9)
    fit(tmp_path / "whole", *options)
    whole, resumed = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (tmp_path / "whole", tmp_path)
    )
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_a_run_that_stopped_before_its_decay_resumes_for_longer(tmp_path: Path) -> None:
    stable = "{class_path: WarmUpStableDecay, init_args: {warm_up_steps: 2, decay_share: 0.5}}"
    cut = "[{class_path: tiny_runs.SignalSender, init_args: {hook: on_train_batch_end, step: 3, signum: 15}}]"
    with pytest.raises(SystemExit):
        fit(tmp_path, f"--model.lr_scheduler={stable}", "--trainer.max_steps=6", f"--trainer.callbacks={cut}")
    fit(tmp_path, f"--model.lr_scheduler={stable}", "--trainer.max_steps=8", "--ckpt_path=last")
    fit(tmp_path / "whole", f"--model.lr_scheduler={stable}", "--trainer.max_steps=8")
    assert schedule(tmp_path)["_last_lr"] == [0.0]
    whole, resumed = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (tmp_path / "whole", tmp_path)
    )
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_a_length_that_the_user_gives_is_kept(tmp_path: Path) -> None:
    fit(tmp_path, f"--model.lr_scheduler={ONE_CYCLE}", "--model.lr_scheduler.total_steps=9", "--trainer.max_steps=1")
    assert schedule(tmp_path)["total_steps"] == 9


def test_a_run_without_an_end_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless = ["--trainer.max_steps=-1", "--trainer.max_epochs=-1"]
    with pytest.raises(SystemExit):
        fit(tmp_path, f"--model.lr_scheduler={ONE_CYCLE}", *endless)
    assert "the run has no end" in capsys.readouterr().err
