"""An arm that becomes NaN is marked, and costs the others nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_runs import tiny_data, tiny_module, tiny_sampling, tiny_task, tiny_trainer
from tiny_runs import TinyNetworks

from tag_lightning.diffusion import DDIM
from tag_lightning.evaluation import Arm, FailedArmError, Results, compare, expanded
from tag_lightning.evaluation.frontier import Frontier
from tag_lightning.evaluation.seed_results import SeedResults
from tag_lightning.guidance import DPS, Corruption

WILD = Arm([Corruption(1e38)])
SWEPT = Arm([DPS(), Corruption(0.1)], sweep={"sigma": [0.1, 0.3, 1e38]})
FAILED = "swept sigma=1e+38"

pytestmark = pytest.mark.filterwarnings("ignore:arm .* It has no figures")


def results_of(tiny: TinyNetworks, arms: dict[str, Arm], **settings: Any) -> Results:
    task = tiny_task(tiny).for_data(tiny_data())
    common = {"num_samples": 6, "num_steps": 3, "chunk_size": 4, "progress": False, "solver": DDIM(), **settings}
    return compare(arms, tiny.root / "denoiser", task, predictor=tiny.root / "predictor", **common)


def test_the_other_arms_are_those_of_a_comparison_without_it(tiny: TinyNetworks, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="^arm wild: the denoiser returned NaN or infinity at timestep 19 for 4 of 4"):
        beside = results_of(tiny, {"unguided": Arm(), "wild": WILD, "dps": Arm([DPS()])})
    alone = results_of(tiny, {"unguided": Arm(), "dps": Arm([DPS()])})
    assert list(beside) == list(alone) == ["unguided", "dps"]
    for name, result in alone.items():
        assert torch.equal(beside[name].samples, result.samples)
        assert beside[name].figures["fid"] == result.figures["fid"]
    assert beside.failed["wild"].error.startswith("arm wild: the denoiser returned NaN or infinity at timestep 19")
    assert "wild (failed)" in str(beside)
    assert str(beside).splitlines()[-1] == f"(failed) {beside.failed['wild'].error}"
    beside.save(tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["failed"] == {"wild": beside.failed["wild"].error}
    assert list(saved["arms"]) == ["unguided", "dps"]
    with (tmp_path / "time_gap.csv").open() as file:
        assert {row["arm"] for row in csv.DictReader(file)} == {"unguided", "dps"}
    assert {path.stem for path in (tmp_path / "samples").iterdir()} == {"unguided", "dps"}
    assert not alone.failed
    assert "failed" not in alone.payload()
    alone.require_all_drawn()
    with pytest.raises(FailedArmError, match=r"^1 of 3 arms failed, the others are in here: arm wild: the denoiser"):
        beside.require_all_drawn("here")


def test_nothing_but_failed_arms_is_an_error(tiny: TinyNetworks) -> None:
    with pytest.raises(FailedArmError, match=r"^arm wild: .* timestep 19 .*; all other arms failed as well: wilder$"):
        results_of(tiny, {"wild": WILD, "wilder": WILD})


def test_the_callback_logs_the_other_arms(tiny: TinyNetworks, tmp_path: Path) -> None:
    sampling = tiny_sampling(tiny, arms={"unguided": Arm(), "wild": WILD})
    trainer = tiny_trainer(tmp_path, sampling)
    trainer.validate(tiny_module(), datamodule=tiny_data(), verbose=False)
    logged = {name.partition("/")[0] for name in trainer.callback_metrics if name.endswith("/fid")}
    assert logged == {"unguided"}
    with pytest.raises(FailedArmError, match=rf"the others are in {tmp_path / 'results.json'}"):
        sampling.require_all_drawn(trainer)


@pytest.fixture(scope="module")
def swept(tiny: TinyNetworks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two arms and of a sweep whose last arm failed, only to be read."""
    folder = tmp_path_factory.mktemp("swept")
    other = Arm([DPS()], sweep={"scale": [0.5, 8.0]})
    results = results_of(tiny, expanded({"unguided": Arm(), "swept": SWEPT, "other": other}), num_samples=12)
    assert list(results.failed) == [FAILED]
    results.save(folder)
    return folder


def test_a_sweep_keeps_the_points_it_has(swept: Path) -> None:
    saved = json.loads((swept / "results.json").read_text())
    place = {"curve": "swept", "parameter": "sigma", "value": 1e38, "guided": True, "asked": ""}
    assert saved["sweep"][FAILED] == place
    curve = json.loads((swept / "frontier.json").read_text())["curves"]["swept"]
    assert curve["values"] == [0.1, 0.3, 1e38]
    assert [fid[0] is None for fid in curve["fid"]] == [False, False, True]
    run = SeedResults.read(swept / "results.json")
    assert run.figures[FAILED] == {}
    frontier = Frontier([run])
    assert len(run.curve(frontier.curves["swept"], frontier.measures).alignment) == 2
    assert (swept / "sweep_sigma.png").stat().st_size > 100


def test_seeds_in_which_different_arms_failed_are_compared(swept: Path, tmp_path: Path) -> None:
    saved = json.loads((swept / "results.json").read_text())
    healed, saved["seed"] = saved["arms"]["swept sigma=0.3"], 1
    del saved["failed"], saved["arms"]["swept sigma=0.3"]
    saved["failed"] = {"swept sigma=0.3": "arm swept sigma=0.3: lost"}
    saved["arms"][FAILED] = healed
    (tmp_path / "results.json").write_text(json.dumps(saved))
    frontier = Frontier.read([swept / "results.json", tmp_path / "results.json"])
    frontier.save(tmp_path)
    curve = json.loads((tmp_path / "frontier.json").read_text())["curves"]["swept"]
    assert [[one is None for one in seeds] for seeds in curve["fid"]] == [[False, False], [False, True], [True, False]]
    for choice in frontier.reported(0.0, 0):
        assert len(choice.quality) == 1
