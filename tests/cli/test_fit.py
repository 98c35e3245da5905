"""What ``fit`` leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TIMESTEPS, TinyNetworks, predictor_arguments

import tag_lightning
from tag_lightning.cli import main
from tag_lightning.pretrained import load_pretrained

ARMS = ["unguided", "corruption", "corruption+tag", "dps", "dps+tag", "adaptive length", "adaptive length+tag"]
METRICS = {"fid", "accuracy", "time_gap", "seconds"}


@pytest.fixture
def results(trained: Path) -> dict:
    return json.loads((trained / "results.json").read_text())


def test_results_hold_every_arm_with_finite_figures(results: dict) -> None:
    assert list(results["arms"]) == ARMS
    for figures in results["arms"].values():
        assert figures.keys() == METRICS | {"num_samples"}
        assert all(np.isfinite(value) for value in figures.values())
        assert figures["fid"] >= 0
        assert 0 <= figures["accuracy"] <= 1
        assert 0 <= figures["time_gap"] < TIMESTEPS
        assert figures["seconds"] > 0
        assert figures["num_samples"] == 6


def test_results_say_how_they_came_about(results: dict, trained: Path) -> None:
    assert results["seed"] == 0
    assert results["config"]["sampling"]["num_steps"] == 4
    assert results["config"]["trainer"]["default_root_dir"] == str(trained)
    assert results["config"]["model"]["class_path"] == "tag_lightning.modules.TimePredictorModule"
    assert results["versions"]["torch"] == torch.__version__
    assert results["versions"]["tag_lightning"] == tag_lightning.__version__
    assert results["features"] == "judge"
    assert results["global_step"] == 2


def test_pictures_of_every_arm_are_written(trained: Path) -> None:
    names = [*(f"samples/{arm}" for arm in ARMS), "arms", "time_gap"]
    for name in names:
        with Image.open(trained / f"{name}.png") as picture:
            assert picture.mode == "RGB"
            assert min(picture.size) >= 48


def test_the_curve_has_every_arm_at_every_step_and_averages_to_the_figure(trained: Path, results: dict) -> None:
    with (trained / "time_gap.csv").open() as file:
        rows = list(csv.DictReader(file))
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        assert [int(row["timestep"]) for row in mine] == [19, 14, 9, 4]
        assert np.mean([float(row["time_gap"]) for row in mine]) == pytest.approx(results["arms"][arm]["time_gap"])


def test_tensorboard_has_the_figures_the_pictures_and_the_predictors_own(trained: Path, results: dict) -> None:
    board = EventAccumulator(str(trained), size_guidance={"images": 0})
    board.Reload()
    tags = board.Tags()
    for arm in ARMS:
        for metric in METRICS:
            (event,) = board.Scalars(f"{arm}/{metric}")
            assert event.value == pytest.approx(results["arms"][arm][metric], rel=1e-5)
        assert f"samples/{arm}" in tags["images"]
    assert {"arms", "time_gap"} <= set(tags["images"])
    expected = {"val/loss", "val/time_gap", "val/time_gap_tenth_0", "val/time_gap_tenth_9"}
    expected |= {f"val/calibration_{name}" for name in ("nll", "z_squared", "coverage_90")}
    assert expected <= set(tags["scalars"])


def test_the_pretrained_folder_holds_the_weights_of_the_last_checkpoint(trained: Path) -> None:
    folder = load_pretrained(trained / "pretrained")
    checkpoint = load_pretrained(trained / "checkpoints" / "last.ckpt")
    saved, kept = folder.network.state_dict(), checkpoint.network.state_dict()
    assert all(torch.equal(saved[name], kept[name]) for name in saved | kept)
    assert torch.isfinite(folder.network.typical_nll).all()
    assert torch.equal(folder.schedule.alphas_cumprod, checkpoint.schedule.alphas_cumprod)


def test_the_saved_configuration_gives_the_same_figures_again(trained: Path, results: dict, tmp_path: Path) -> None:
    main(["fit", f"--config={trained / 'config.yaml'}", f"--trainer.default_root_dir={tmp_path}"])
    again = json.loads((tmp_path / "results.json").read_text())
    for arm in ARMS:
        for metric in METRICS - {"seconds"}:
            assert again["arms"][arm][metric] == results["arms"][arm][metric]


def test_later_configuration_files_win_and_extra_arms_join(tiny: TinyNetworks, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    arm = {"guidance": [{"class_path": "tag_lightning.guidance.DPS", "init_args": {"scale": 2.0}}]}
    first.write_text(yaml.safe_dump({"sampling": {"num_samples": 8, "scale": 3.0, "extra_arms": {"few": arm}}}))
    second.write_text(yaml.safe_dump({"sampling": {"num_samples": 5, "extra_arms": {"fewer": {"num_steps": 2}}}}))
    main(predictor_arguments("validate", tmp_path / "run", tiny, f"--config={first}", f"--config={second}"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["arms"]["fewer"]["num_samples"] == 5
    assert results["config"]["sampling"]["scale"] == 3.0
    assert set(ARMS) < results["arms"].keys()
