"""Features are added up as they come: the memory does not grow with the number of samples."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sampling_runs import tiny_data, tiny_task
from test_arm_processes import SHAPE, BareData, BareTask, HalfNetwork
from tiny_runs import TinyNetworks
from torch import Tensor

from tag_lightning.diffusion import DDIM, Denoiser, LinearSchedule
from tag_lightning.evaluation import Arm, ArmResult, ArmSampler, compare, expanded
from tag_lightning.guidance import DPS
from tag_lightning.metrics import FID, FrechetDistance, InceptionScore
from tag_lightning.metrics.totals import Totals

WIDTH = 2048


class RandomFeatures:
    """Random features, and the bytes of all tensors that were held when the latest were asked for."""

    name, num_features = "random", 64

    def __init__(self, num_calls: int) -> None:
        self.left, self.held = num_calls, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            gc.collect()
            tensors = [one for one in gc.get_objects() if type(one) is Tensor]
            self.held = sum({one.data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())
        generator = torch.Generator().manual_seed(self.left)
        return torch.randn(len(images), self.num_features, dtype=torch.float64, generator=generator)


def drawn(count: int, keep_streamed: bool) -> tuple[int, ArmResult]:
    """The bytes held at the last of ``count`` samples, and the result."""
    task = BareTask().for_data(BareData()).for_samples(count)
    metric = task.metrics[0]
    assert isinstance(metric, FID)
    metric._extractor = extractor = RandomFeatures(1 + count // 20)
    metric._distance = FrechetDistance(extractor.num_features)
    task.metrics = [metric]
    shared: dict[str, Any] = {"num_steps": 2, "chunk_size": 20, "num_kept": 4, "progress": False}
    sampler = ArmSampler(
        Denoiser(HalfNetwork(), LinearSchedule(20), "epsilon"), task, keep_streamed=keep_streamed, **shared
    )
    sampler.prepare([SimpleNamespace(x=torch.zeros(30, *SHAPE))])
    result = sampler.draw("arm", Arm())
    assert extractor.left == 0
    return extractor.held, result


def test_the_memory_does_not_grow_with_the_features() -> None:
    few, many = 40, 400
    grown = {keep: drawn(many, keep)[0] - drawn(few, keep)[0] for keep in (False, True)}
    features = 8 * RandomFeatures.num_features * (many - few)
    assert grown[True] > 0.9 * features
    assert grown[False] < 0.1 * features


def test_rows_of_features_are_kept_where_they_are_asked_for() -> None:
    (_, streamed), (_, kept) = (drawn(40, keep) for keep in (False, True))
    assert set(streamed.rows) == {"seconds", "index"}
    assert kept.rows["features"].shape == (40, RandomFeatures.num_features)
    assert streamed.figures["fid"] == kept.figures["fid"] > 0


def test_distances_are_those_of_all_features_together(tiny: TinyNetworks) -> None:
    task = tiny_task(tiny, metrics=[InceptionScore()]).for_data(tiny_data())
    shared: dict[str, Any] = {"num_samples": 80, "num_steps": 2, "chunk_size": 32, "progress": False, "solver": DDIM()}
    swept = expanded({"unguided": Arm(), "dps": Arm([DPS()], sweep={"scale": [1.0]})})
    results = compare(swept, tiny.root / "denoiser", task, **shared)
    alone = compare({"unguided": Arm()}, tiny.root / "denoiser", results.task, **shared)
    assert "features" not in alone["unguided"].rows
    fid, score = results.task.metrics[0], results.task.metrics[-1]
    for result in results.values():
        rows = {name: result.rows[name] for name in ("features", "logits_judge")}
        assert fid.summary(rows)["fid"] == pytest.approx(result.figures["fid"], rel=1e-6)
        name = "inception_score_judge"
        assert score.summary(rows)[name] == pytest.approx(result.figures[name], rel=1e-9)
    for name in ("fid", "inception_score_judge"):
        assert alone["unguided"].figures[name] == results["unguided"].figures[name]


def distance_of_many(count: int) -> None:
    """Measure this many samples of full width and print the growth of the process in bytes."""
    torch.manual_seed(0)
    task = SimpleNamespace(judge=None, sample_shape=(1, 1, WIDTH))
    metric = FID("pixels").for_task(task)
    for _ in range(40):
        metric.add_real(SimpleNamespace(x=torch.randn(64, 1, 1, WIDTH)), torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    totals = Totals(metric.totals(metric.rows(torch.zeros(0, 1, 1, WIDTH), []), []))
    for start in range(0, count, 64):
        indices = range(start, min(start + 64, count))
        totals.update(metric.totals(metric.rows(torch.randn(len(indices), 1, 1, WIDTH), indices), indices))
    figures = metric.summary(totals.compute())
    assert figures["fid"] > 0
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


@pytest.mark.slow
def test_fifty_thousand_samples_of_inception_width_take_less_than_a_gigabyte() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", "from test_streamed_features import distance_of_many; distance_of_many(50_000)"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) < 2**30
