"""``validate`` with ``ComparisonModule``: saved networks are compared, nothing else is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tag_lightning.cli import main

DATA = ["--data=DigitsDataModule"]
NETWORKS = ["--sampling.denoiser=digits/denoiser", "--sampling.predictor=digits/time_predictor"]
TASK = ["--sampling.task=ImageTask", "--sampling.task.guide=digits/guide", "--sampling.task.judge=digits/judge"]


def compared(verb: str, run: Path, *more: str) -> None:
    size = ["--sampling.num_samples=2", "--sampling.num_steps=2", "--trainer.accelerator=cpu"]
    main([verb, "--model=ComparisonModule", *DATA, *TASK, *size, f"--trainer.default_root_dir={run}", *more])


def test_shipped_networks_are_compared_without_a_checkpoint(tmp_path: Path) -> None:
    second = "--sampling.time_gap_predictor=digits/time_gap_predictor"
    compared("validate", tmp_path, *NETWORKS, second, "--sampling.arms={tag: {guidance: [TemporalAlignment]}}")
    assert json.loads((tmp_path / "results.json").read_text())["arms"]["tag"]["time_gap"] > 0


def test_one_arm_is_drawn(tmp_path: Path) -> None:
    compared("predict", tmp_path, *NETWORKS, "--sampling.predict_arm=dps+tag")
    assert list((tmp_path / "samples").rglob("*"))


@pytest.mark.parametrize(
    ("verb", "networks", "message"),
    [
        ("fit", NETWORKS, "ComparisonModule has nothing to train; compare with validate"),
        ("validate", [], "set sampling.denoiser: ComparisonModule has no network to draw samples with"),
    ],
)
def test_refusals(
    verb: str, networks: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compared(verb, tmp_path, *networks)
    assert message in capfd.readouterr().err
