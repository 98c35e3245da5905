"""The configurations as files: what each must hold so that its run ends as the README says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from tag_lightning.callbacks import GuidedSampling

CONFIGS = Path("configs")
MAIN_JOBS = sorted(CONFIGS.glob("*/time_predictor.yaml"))
STAGES = sorted(path for path in CONFIGS.glob("*/*.yaml") if "model" in yaml.safe_load(path.read_text()))


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def test_there_are_main_jobs() -> None:
    assert {path.parent.name for path in MAIN_JOBS} == {"cifar10", "digits", "molecules", "qm9", "qm9_small", "toy"}


@pytest.mark.parametrize("path", MAIN_JOBS, ids=str)
def test_the_last_epoch_of_a_main_job_is_validated_and_sampled(path: Path) -> None:
    # An epoch that `max_steps` cuts short is not validated, and a run without its last sampling has no results.
    trainer = read(path)["trainer"]
    assert "max_steps" not in trainer
    assert trainer["max_epochs"] % trainer.get("check_val_every_n_epoch", 1) == 0


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_a_stage_has_a_folder_of_its_own_named_after_it(path: Path) -> None:
    assert read(path)["trainer"]["default_root_dir"] == f"runs/{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_a_schedule_of_the_learning_rate_is_as_long_as_the_run(path: Path) -> None:
    config = read(path)
    settings = config["model"]["init_args"].get("lr_scheduler", {}).get("init_args", {})
    trainer = config["trainer"]
    if "total_steps" in settings and "max_steps" in trainer:
        assert settings["total_steps"] == trainer["max_steps"]
    elif "total_steps" in settings:  # whole epochs; the module refuses a run that is longer
        assert settings["total_steps"] % trainer["max_epochs"] == 0


def test_the_frontier_of_the_digits_has_its_curves() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GuidedSampling, "sampling")
    parsed = parser.parse_object({"sampling": read(CONFIGS / "experiments" / "frontier.yaml")["sampling"]})
    arms = parser.instantiate(parsed).sampling.arms
    counts = Counter(arm.point.curve for arm in arms.values() if arm.point is not None)
    curves = ["dps", "dps+tag", "dps+retiming", "fixed length", "fixed length+tag", "mpgd", "adam"]
    assert counts == dict.fromkeys(curves, 4)
    assert arms["adam scale=0.068"].guidance[0].guidance.scale == 0.068
