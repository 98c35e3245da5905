"""Solvers by their short name on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main


def test_a_solver_by_its_short_name(tiny: TinyNetworks, tmp_path: Path) -> None:
    solver = ["--sampling.solver", "DDIM", "--sampling.solver.eta", "0.5", "--sampling.arms={unguided: {}}"]
    main(predictor_arguments("validate", tmp_path, tiny, *solver))
    used = json.loads((tmp_path / "results.json").read_text())["config"]["sampling"]["solver"]
    assert used == {"class_path": "tag_lightning.DDIM", "init_args": {"eta": 0.5}}


def test_an_impossible_eta_is_what_is_complained_of(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = ["--sampling.solver", "DDIM", "--sampling.solver.eta", "2"]
    with pytest.raises(SystemExit):
        main(predictor_arguments("validate", tmp_path, tiny, *solver))
    assert "eta must lie in [0, 1], got 2" in capsys.readouterr().err
