"""Vectors are measured by Wasserstein distances that are known beforehand."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tag_lightning.datamodules import Batch
from tag_lightning.evaluation import VectorTask

CPU = torch.device("cpu")


def task_of(data: Tensor, num_samples: int = 3) -> VectorTask:
    source = SimpleNamespace(sample_shape=(data.shape[1],), table=lambda split: data)
    task = VectorTask().for_data(source).for_samples(num_samples)
    task.prepare([Batch(part, {}, {}) for part in data.split(4)], CPU)
    return task


def points(count: int, seed: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def w1(task: VectorTask, samples: Tensor) -> float:
    return task.summary(task.rows(samples, range(len(samples))))["w1"]


def test_the_data_in_another_order_are_at_no_distance() -> None:
    data = points(10, 0)
    task = task_of(data)
    assert task.num_reference == 10
    assert w1(task, data.flip(0)) == pytest.approx(0, abs=1e-3)


def test_shifted_data_are_as_far_as_the_shift() -> None:
    data = points(10, 0)
    assert w1(task_of(data), data + torch.tensor([30.0, 40.0])) == pytest.approx(50, rel=1e-5)


def test_points_may_not_share_a_partner() -> None:
    """The nearest of each would be at distance 1, 1 and 1."""
    data = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    samples = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    ways = [sum(float((samples[i] - data[j]).norm()) for i, j in enumerate(way)) / 3 for way in permutations(range(3))]
    assert w1(task_of(data), samples) == pytest.approx(min(ways), rel=1e-6)
    assert min(ways) > 9


def test_fewer_samples_meet_the_first_of_the_data() -> None:
    data = points(10, 0)
    assert w1(task_of(data), data[:4]) == pytest.approx(0, abs=1e-3)
    assert w1(task_of(data), data[-4:]) > 0.1


def test_more_samples_than_data_are_refused() -> None:
    with pytest.raises(ValueError, match="w1 of 5 samples needs as many real samples, got 4"):
        w1(task_of(points(4, 0)), points(5, 1))
    with pytest.raises(ValueError, match=r"num_samples is 5, but w1 .* there are 4"):
        task_of(points(4, 0), num_samples=5)
