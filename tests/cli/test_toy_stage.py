"""The toy experiment from its configuration: distances held to an assignment of their own, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from tag_lightning.cli import main
from tag_lightning.datamodules import MixtureDataModule
from tag_lightning.evaluation import ArmResult, VectorTask

CONFIG = Path("configs/toy/time_predictor.yaml")
ARMS = tuple(yaml.safe_load(CONFIG.read_text())["sampling"]["arms"])
POINTS, SAMPLES = 400, 40


def arguments(verb: str, run: Path, *more: str) -> list[str]:
    return [
        verb,
        f"--config={CONFIG}",
        f"--data.init_args.num_points={POINTS}",
        "--data.init_args.batch_size=100",
        f"--trainer.default_root_dir={run}",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--sampling.num_steps=10",
        f"--sampling.num_samples={SAMPLES}",
        "--sampling.chunk_size=20",
        *more,
    ]


class Run(NamedTuple):
    """A finished ``fit`` and the samples of its arms, ``[N, 2]`` each."""

    folder: Path
    samples: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch of four steps, and its sampling."""
    folder = tmp_path_factory.mktemp("toy") / "run"
    samples: dict[str, np.ndarray] = {}
    draw = VectorTask.pictures

    def kept(self: VectorTask, results: Mapping[str, ArmResult], predictor: Any) -> dict[str, Tensor]:
        samples.update({name: result.samples.numpy() for name, result in results.items()})
        return draw(self, results, predictor)

    # The samples of `fit` are drawn but not written; the configuration shows all of them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorTask, "pictures", kept)
        main(arguments("fit", folder))
    return Run(folder, samples)


def distance(samples: np.ndarray) -> float:
    """Mean distance to as many points of the data, each taken once, in float64."""
    batches = MixtureDataModule(num_points=POINTS).reference_dataloader()
    data = np.concatenate([batch.x.numpy() for batch in batches])[: len(samples)]
    costs = cdist(samples.astype(np.float64), data.astype(np.float64))
    return float(costs[linear_sum_assignment(costs)].mean())


def figures_of(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "results.json").read_text())


def test_every_arm_has_the_distance_of_an_exact_assignment(run: Run) -> None:
    results = figures_of(run)
    assert tuple(results["arms"]) == tuple(run.samples) == ARMS
    assert results["num_reference"] == POINTS
    for arm, figures in results["arms"].items():
        assert run.samples[arm].shape == (SAMPLES, 2)
        assert figures["num_samples"] == SAMPLES
        assert figures["w1"] == pytest.approx(distance(run.samples[arm]), rel=1e-4)
    assert len({figures["w1"] for figures in results["arms"].values()}) == len(ARMS)
    # The drift pulls samples off the data.
    assert results["arms"]["drift"]["w1"] > results["arms"]["unguided"]["w1"]


def test_predict_writes_the_points_of_one_arm(run: Run, tmp_path: Path) -> None:
    last = f"--ckpt_path={run.folder / 'checkpoints' / 'last.ckpt'}"
    main(arguments("predict", tmp_path, last, "--sampling.predict_arm=drift+tag"))
    with np.load(tmp_path / "samples" / "drift+tag.npz") as archive:
        np.testing.assert_allclose(archive["samples"], run.samples["drift+tag"], rtol=1e-5)


@pytest.mark.parametrize("name", ["time_linked_score", "arms", "time_gap"])
def test_its_pictures_show_something(name: str, run: Run) -> None:
    with Image.open(run.folder / f"{name}.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) >= 100
    # More than a background and the lines of its axes.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
