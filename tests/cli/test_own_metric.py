"""A stranger's metric: one file and one line of configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main


def test_a_metric_is_added_by_a_line_of_configuration(tiny: TinyNetworks, trained: Path, tmp_path: Path) -> None:
    config = tmp_path / "metric.yaml"
    config.write_text("sampling: {task: {init_args: {metrics: [{class_path: brightness.Brightness}]}}}")
    settings = [f"--config={config}", f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"]
    main(predictor_arguments("validate", tmp_path / "run", tiny, *settings))
    main(predictor_arguments("predict", tmp_path / "run", tiny, *settings, "--sampling.predict_arm=dps"))
    arms = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]
    expected = json.loads((trained / "results.json").read_text())["arms"]
    with np.load(tmp_path / "run" / "samples" / "dps.npz") as archive:
        assert arms["dps"]["brightness"] == pytest.approx(float(archive["samples"].mean()), abs=1e-6)
    assert {name: figures["fid"] for name, figures in arms.items()} == {n: f["fid"] for n, f in expected.items()}
