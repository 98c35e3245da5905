"""Precision and recall on sets whose overlap is known, and Frechet distances of several features beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import TinyNetworks, predictor_arguments
from torch import Tensor

from tag_lightning.cli import main
from tag_lightning.metrics import FID, PrecisionRecall


def measured(real: Tensor, generated: Tensor, neighborhood: int = 3) -> dict[str, float]:
    task = SimpleNamespace(judge=None, sample_shape=tuple(real.shape[1:]), num_samples=len(generated))
    metric = PrecisionRecall("pixels", neighborhood).for_task(task)
    for x in real.split(7):
        metric.add_real(SimpleNamespace(x=x), torch.device("cpu"))
    return metric.summary(metric.rows(generated, range(len(generated))))


def images(count: int, shift: float, seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, 1, 2, 2, generator=generator) + shift


def test_the_same_set_has_both_and_a_distant_one_neither() -> None:
    real = images(40, 0.0, 0)
    assert measured(real, real) == {"precision": 1.0, "recall": 1.0}
    assert measured(real, images(40, 100.0, 1)) == {"precision": 0.0, "recall": 0.0}


def test_collapsed_samples_are_precise_and_recall_little_and_scattered_ones_the_reverse() -> None:
    real = images(200, 0.0, 0)
    collapsed, scattered = measured(real, images(200, 0.0, 1, 0.2)), measured(real, images(200, 0.0, 2, 3.0))
    assert collapsed["precision"] > 0.95
    assert collapsed["recall"] < 0.2
    assert scattered["precision"] < 0.5
    assert scattered["recall"] > 0.8


def test_one_dimension_by_hand() -> None:
    """Real 0, 1, 2, 3 with radius 1; generated 0.5 (inside), 10 (outside), 11, 12."""
    real = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(4, 1, 1, 1)
    generated = torch.tensor([0.5, 10.0, 11.0, 12.0]).reshape(4, 1, 1, 1)
    # The ball of 0.5 reaches to its nearest neighbour, 10, and so covers all real points.
    assert measured(real, generated, neighborhood=1) == {"precision": 0.25, "recall": 1.0}


def test_as_many_real_images_as_samples_are_used() -> None:
    real = torch.cat([images(40, 0.0, 0), images(40, 50.0, 1)])
    assert measured(real, images(80, 0.0, 2))["recall"] == pytest.approx(0.5, abs=0.1)
    assert measured(real, images(20, 0.0, 2))["recall"] <= 0.5


@pytest.mark.parametrize(("count", "neighborhood"), [(3, 3), (2, 5)])
def test_too_few_samples_are_refused(count: int, neighborhood: int) -> None:
    with pytest.raises(ValueError, match=f"num_samples is {count}, but PrecisionRecall needs more than"):
        measured(images(10, 0.0, 0), images(count, 0.0, 1), neighborhood)
    with pytest.raises(ValueError, match="neighborhood must be at least 1, got 0"):
        PrecisionRecall(neighborhood=0)


def test_further_distances_are_listed_by_name(tiny: TinyNetworks, tmp_path: Path) -> None:
    run = tmp_path / "run"
    listed = [
        "{class_path: FID, init_args: {features: pixels, name: fid_pixels}}",
        f"{{class_path: FID, init_args: {{features: {tiny.root / 'guide'}, name: fid_guide}}}}",
        "{class_path: PrecisionRecall, init_args: {features: judge}}",
    ]
    metrics = f"--sampling.task.init_args.metrics=[{', '.join(listed)}]"
    main(predictor_arguments("validate", run, tiny, metrics))
    figures = json.loads((run / "results.json").read_text())["arms"]["unguided"]
    assert {"fid", "fid_pixels", "fid_guide", "precision", "recall"} <= figures.keys()
    assert len({figures[name] for name in ("fid", "fid_pixels", "fid_guide")}) == 3
    assert 0 <= figures["precision"] <= 1


def test_a_network_without_features_is_refused(tiny: TinyNetworks) -> None:
    task = SimpleNamespace(judge=None, sample_shape=(3, 8, 8), num_samples=6)
    with pytest.raises(TypeError, match=r"SimpleCNN has no features"):
        FID(str(tiny.root / "predictor")).for_task(task)
