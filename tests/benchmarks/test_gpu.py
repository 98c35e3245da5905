"""The plan for a GPU: order, shares of the time, resuming, and all of it on tiny networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
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


@pytest.mark.slow
def test_the_whole_plan_runs_on_tiny_networks(tmp_path: Path) -> None:
    images, out, layer = random_images(tmp_path / "images"), tmp_path / "gpu", tmp_path / "tiny.yaml"
    trainer = {"max_epochs": 1, "max_steps": 2, "limit_train_batches": 2, "check_val_every_n_epoch": 1}
    settings: dict[str, object] = {
        "data": {"init_args": {"batch_size": 8}},
        "trainer": trainer | {"accelerator": "cpu"},
        "sampling": {"num_samples": 4, "chunk_size": 4, "num_steps": 3, "every_n_epochs": 1},
    }
    settings["sampling"]["task"] = {"init_args": {"features": "judge"}}  # type: ignore[index]
    widths = {"guide": [8, 8], "judge": [8, 8], "time_gap_predictor": [8] * 4, "time_predictor": [8] * 4}
    for stage, sizes in (widths | {"noise_level": [8, 8, 8]}).items():
        settings[stage] = {"model": {"init_args": {"network": {"init_args": {"widths": sizes}}}}}
    settings["denoiser"] = {"model": {"init_args": {"network": {"init_args": UNET}}}}
    layer.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes=30", f"--out={out}", f"--cifar10={images}"]
    command += [f"--config={layer}", "--quick", "--modes", "float32", "bfloat16"]
    subprocess.run(command, check=True)
    report = json.loads((out / "report.json").read_text())
    assert set(states(report)) == {"finished"}, report
    assert {path.stem for path in (out / "results").iterdir()} == {
        *("speed", "cifar10_time_predictor", "cifar10_few_steps", "cifar10_corruption", "cifar10_guidance")
    }
    arms = json.loads((out / "results" / "cifar10_guidance.json").read_text())["arms"]
    assert {"dps", "dps+tag", "tfg+retiming"} <= arms.keys()
