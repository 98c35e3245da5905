"""A run with a sweep, from its one line of configuration to its frontier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main
from tag_lightning.evaluation.frontier import Frontier
from tag_lightning.evaluation.sample_rows import SampleRows
from tag_lightning.evaluation.seed_results import ROWS_FILE

ARMS = (
    "--sampling.arms={unguided: {}, dps: {guidance: [{class_path: DPS}], sweep: {scale: [0.5, 4]}}, "
    "fixed: {guidance: [{class_path: FixedLengthSteps, init_args: {guidance: {class_path: DPS}}}], "
    "sweep: {kappa: [0.05, 0.3]}}}"
)
NAMES = ["unguided", "dps scale=0.5", "dps scale=4", "fixed kappa=0.05", "fixed kappa=0.3"]


@pytest.fixture(scope="module")
def swept(tiny: TinyNetworks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished validation with two sweeps, only to be read."""
    run = tmp_path_factory.mktemp("runs") / "swept"
    more = ("--sampling.strength=0.1", "--sampling.num_samples=12", "--sampling.chunk_size=12")
    main(predictor_arguments("validate", run, tiny, ARMS, f"--sampling.predictor={tiny.root / 'predictor'}", *more))
    return run


def test_the_results_say_the_curve_and_the_value_of_each_arm(swept: Path) -> None:
    results = json.loads((swept / "results.json").read_text())
    assert list(results["arms"]) == NAMES
    place = {"curve": "dps", "parameter": "scale", "value": 0.5, "guided": True, "asked": ""}
    assert results["sweep"]["dps scale=0.5"] == place
    assert list(results["sweep"]) == NAMES[1:]
    figures = results["arms"]
    assert len({figures[name]["fid"] for name in NAMES}) == len(NAMES)


def test_rows_of_samples_give_the_figures_of_the_results(swept: Path) -> None:
    figures = json.loads((swept / "results.json").read_text())["arms"]
    rows = SampleRows.read(swept / ROWS_FILE)
    once = torch.ones(1, 12, dtype=torch.long)
    for arm in NAMES:
        for figure in ("fid", "accuracy"):
            (found,) = rows.resampled(arm, figure, once)
            assert found == pytest.approx(figures[arm][figure], rel=1e-3, abs=1e-9)


def test_files_and_pictures_of_the_frontier(swept: Path) -> None:
    payload = json.loads((swept / "frontier.json").read_text())
    assert list(payload["curves"]) == ["unguided", "dps", "fixed"]
    assert ("dps", "fixed") in [(merit["first"], merit["second"]) for merit in payload["merits"]]
    assert (swept / "frontier.csv").read_text().startswith("curve,arm,parameter,value,seed,accuracy,fid,seconds")
    assert (swept / "frontier.png").is_file()
    assert (swept / "samples" / "fixed kappa=0.3.png").is_file()
    board = EventAccumulator(str(swept / "validate"), size_guidance={"images": 0})
    board.Reload()
    assert "frontier" in board.Tags()["images"]
    assert Frontier.read([swept / "results.json"]).payload()["merits"] == payload["merits"]
