"""The plan for a GPU: order, shares of the time, resuming, and all of it on tiny networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_qm9 import write_qm9
from tiny_runs import random_images

from benchmarks import gpu, precision
from benchmarks.gpu import Job, plan, run_all

UNET = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "layers_per_block": 1,
}


def writing(path: Path, *, code: int = 0, first: str = "pass") -> list[str]:
    """Arguments of Python that write ``path`` and exit with ``code``."""
    done = f"import pathlib, sys, time; {first}; pathlib.Path({str(path)!r}).write_text('{{}}'); sys.exit({code})"
    return ["-c", done]


def states(report: dict[str, dict[str, object]]) -> list[object]:
    return [row["state"] for row in report.values()]


def test_jobs_run_in_order_and_a_second_run_repeats_none(tmp_path: Path) -> None:
    made = [tmp_path / name for name in "abc"]
    jobs = [Job(path.name, 1, writing(path), path, path) for path in made]
    assert states(run_all(jobs, 600, tmp_path)) == ["finished"] * 3
    times = [path.stat().st_mtime_ns for path in made]
    assert times == sorted(times)
    assert states(run_all(jobs, 600, tmp_path)) == ["finished"] * 3
    assert [path.stat().st_mtime_ns for path in made] == times
    assert json.loads((tmp_path / "report.json").read_text())["a"] == {"state": "finished"}
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["a.json", "b.json", "c.json"]


def test_a_failed_job_leaves_out_those_that_need_it_alone(tmp_path: Path) -> None:
    jobs = [
        Job("broken", 1, ["-c", "raise SystemExit(3)"], tmp_path / "broken"),
        Job("after", 1, writing(tmp_path / "after"), tmp_path / "after", needs=["broken"]),
        Job("apart", 1, writing(tmp_path / "apart"), tmp_path / "apart"),
    ]
    report = run_all(jobs, 600, tmp_path)
    assert states(report) == ["failed", "left out", "finished"]
    assert report["broken"]["exit_code"] == 3
    assert report["after"]["why"] == "needs broken"


@pytest.mark.parametrize(
    ("hours", "limits"), [(4, ("00:00:59:59", "00:01:00:00")), (100, ("01:00:59:59", "01:01:00:00"))]
)
def test_time_is_shared_among_the_jobs_that_are_left(tmp_path: Path, hours: int, limits: tuple[str, str]) -> None:
    (tmp_path / "old").write_text("")
    said = tmp_path / "said"
    tell = f"import pathlib; pathlib.Path({str(said)!r}).write_text('{{limit}}')"
    jobs = [
        Job("old", 100, [], tmp_path / "old"),
        Job("new", 1, ["-c", tell], said),
        Job("last", 3, writing(tmp_path / "last"), tmp_path / "last"),
    ]
    run_all(jobs, hours * 3600, tmp_path)
    assert said.read_text() in limits


def test_a_job_that_outlasts_the_time_is_told_to_save_and_the_rest_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_SECONDS_TO_SAVE", 2)
    jobs = [
        Job("long", 1, writing(tmp_path / "long", first="time.sleep(60)"), tmp_path / "long"),
        Job("next", 1, writing(tmp_path / "next"), tmp_path / "next"),
    ]
    report = run_all(jobs, 3, tmp_path)
    assert states(report) == ["unfinished", "left out"]
    assert report["next"]["why"] == "the time was over"


def test_the_plan_begins_with_the_speed_and_leaves_out_absent_data(tmp_path: Path) -> None:
    jobs = plan(tmp_path, {"qm9": tmp_path / "qm9"}, [], ["float32"], quick=False)
    assert [job.name for job in jobs][:2] == ["speed", "qm9 guide"]
    assert not any("cifar10" in job.name or "noise_level" in job.name for job in jobs)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [(["--minutes", "0"], "above 0"), (["--minutes", "1", "--qm9", "nowhere"], "the folder nowhere does not exist")],
)
def test_impossible_arguments_are_refused(wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main([*wrong, "--out", "runs/gpu"])
    assert told in capsys.readouterr().err


def test_precision_shows_the_share_of_the_denoiser_in_every_mode() -> None:
    seconds = {
        "float32, plain": [2.0, 4.0],
        "float32, forward": [1.0, 3.0],
        "float32, forward and backward": [3.0, 3.0],
    }
    seconds |= {"float32, dps": [6.0, 6.0], "float32, dps+tag": [6.0, 12.0]}
    rows = precision.figures(seconds, ["float32"])
    assert [row["over_plain"] for row in rows] == [1.0, 2.25, 3.0]
    assert [row["denoiser_share"] for row in rows] == [0.625, 0.5, 0.375]
    assert rows[0]["milliseconds"] == 750.0


def test_the_molecules_that_a_file_lists_are_held_out(tmp_path: Path) -> None:
    root = tmp_path / "qm9"
    root.mkdir()
    assert not any(
        "test_molecules" in word for job in plan(tmp_path, {"qm9": root}, [], [], False) for word in job.command
    )
    (root / "qm9_test_edm.npz").write_bytes(b"")
    *stages, table = plan(tmp_path, {"qm9": root}, [], [], False)
    assert all(f"--data.test_molecules={root / 'qm9_test_edm.npz'}" in job.command for job in stages)
    assert (table.name, table.needs) == ("qm9 published", ["qm9 time_predictor"])


def test_the_usual_folders_are_taken_and_missing_ones_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    planned: list[dict[str, Path]] = []
    monkeypatch.setattr(gpu, "plan", lambda out, data, *rest: planned.append(data) or [])
    gpu.main(["--minutes", "1", "--out", "runs/gpu"])
    assert planned == [{"cifar10": Path("data/cifar10")}]
    assert "qm9 is left out: there is no data/qm9; name its folder by --qm9" in capsys.readouterr().err


def tiny_layer(path: Path, **stages: dict[str, object]) -> Path:
    """A configuration over every stage: two steps, four samples, and these arguments of the stages' networks."""
    trainer = {"max_epochs": 1, "max_steps": 2, "limit_train_batches": 2, "check_val_every_n_epoch": 1}
    settings: dict[str, object] = {
        "data": {"init_args": {"batch_size": 4}},
        "trainer": trainer | {"accelerator": "cpu"},
        "sampling": {"num_samples": 4, "chunk_size": 4, "num_steps": 3, "every_n_epochs": 1},
    }
    for stage, network in stages.items():
        settings[stage] = {"model": {"init_args": {"network": {"init_args": network}}}}
    path.write_text(yaml.safe_dump(settings))
    return path


def run_plan(out: Path, minutes: float, *arguments: object) -> dict[str, dict[str, object]]:
    command = [sys.executable, "-m", "benchmarks.gpu", f"--minutes={minutes}", f"--out={out}", "--quick"]
    # In a folder without `data`, so that no data of this checkout are found; its packages are.
    paths = {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([*command, *map(str, arguments)], check=True, cwd=out.parent, env=os.environ | paths)
    return json.loads((out / "report.json").read_text())


@pytest.mark.slow
def test_the_plan_of_images_runs_on_tiny_networks_and_goes_on_after_its_time(tmp_path: Path) -> None:
    predictor, classifier = {"widths": [8] * 4}, {"widths": [8, 8]}
    layer = tiny_layer(
        tmp_path / "tiny.yaml",
        guide=classifier,
        judge=classifier,
        time_gap_predictor=predictor,
        time_predictor=predictor,
        noise_level={"widths": [8, 8, 8]},
        denoiser=UNET,
    )
    settings = yaml.safe_load(layer.read_text())
    settings["sampling"]["task"] = {"init_args": {"features": "judge"}}
    layer.write_text(yaml.safe_dump(settings))
    images = random_images(tmp_path / "images")
    arguments = [f"--cifar10={images}", f"--config={layer}", "--modes", "float32", "bfloat16", "compiled float32"]
    first = run_plan(tmp_path / "gpu", 0.75, *arguments)
    assert "failed" not in states(first)
    report = run_plan(tmp_path / "gpu", 30, *arguments)
    assert set(states(report)) == {"finished"}, report
    figures = tmp_path / "gpu" / "results"
    assert {path.stem for path in figures.iterdir()} == {
        *("speed", "cifar10_time_predictor", "cifar10_few_steps", "cifar10_corruption", "cifar10_guidance")
    }
    arms = json.loads((figures / "cifar10_guidance.json").read_text())["arms"]
    assert {"dps", "dps+tag", "tfg+retiming"} <= arms.keys()


@pytest.mark.slow
def test_the_plan_of_molecules_runs_on_tiny_networks(tmp_path: Path) -> None:
    regressor = {"width": 8, "num_layers": 1}
    layer = tiny_layer(
        tmp_path / "tiny.yaml",
        guide=regressor,
        judge=regressor,
        time_gap_predictor=regressor,
        time_predictor=regressor,
        denoiser={"width": 8, "num_blocks": 1, "longest": 1.0},
    )
    root = tmp_path / "qm9"
    root.mkdir()
    write_qm9(root, 40)
    np.savez(root / "qm9_test_edm.npz", index=np.array([3, 5, 8]))
    report = run_plan(tmp_path / "gpu", 30, f"--qm9={root}", f"--config={layer}", "--modes")
    assert set(states(report)) == {"finished"}, report
    results = json.loads((tmp_path / "gpu" / "results" / "qm9_published.json").read_text())
    assert {"dps alpha+tag", "tfg gap", "dps all six"} <= results["arms"].keys()
    assert results["published"]["tfg cv+tag"]["mae_cv"] == 2.67
