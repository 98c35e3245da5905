"""KID against torchmetrics' public class and an own sum in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from tag_lightning.metrics import KID


def images(count: int, shift: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 2, 3, generator=generator) + shift


def measured(real: Tensor, generated: Tensor, block_size: int = 1000) -> float:
    task = SimpleNamespace(judge=None, sample_shape=tuple(real.shape[1:]), num_samples=len(generated))
    metric = KID("pixels", block_size).for_task(task)
    assert metric.summary({}) == {}, "nothing without real data"
    for x in real.split(7):
        metric.add_real(SimpleNamespace(x=x), torch.device("cpu"))
    return metric.summary(metric.rows(generated, range(len(generated))))["kid"]


class Flat(nn.Module):
    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double()


def test_one_block_is_torchmetrics_with_one_subset_of_all() -> None:
    real, generated = images(30, 0.0, 0), images(30, 0.7, 1)
    expected = KernelInceptionDistance(Flat(), subsets=1, subset_size=30)
    expected.update(real, real=True)
    expected.update(generated, real=False)
    assert measured(real, generated) == pytest.approx(float(expected.compute()[0]), rel=1e-5)


def test_blocks_are_averaged_and_a_remainder_is_left_out() -> None:
    real, generated = images(25, 0.0, 0), images(25, 0.5, 1)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            return (u @ v.T / 6 + 1) ** 3

        n = len(a)
        own = sum((kernel(u, u).sum() - np.trace(kernel(u, u))) / (n * (n - 1)) for u in (a, b))
        return own - 2 * kernel(a, b).mean()

    a, b = (x.flatten(1).double().numpy() for x in (real, generated))
    # Two blocks of 10; a block of real images takes every other one.
    expected = (distance(a[:20:2], b[:10]) + distance(a[1:20:2], b[10:20])) / 2
    assert measured(real, generated, 10) == pytest.approx(expected, rel=1e-9)


def test_the_same_distribution_is_at_no_distance_and_another_far() -> None:
    same = [measured(images(200, 0.0, seed), images(200, 0.0, seed + 50)) for seed in range(8)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(8) + 1e-3
    assert measured(images(200, 0.0, 0), images(200, 2.0, 1)) > 10 * max(map(abs, same))


def test_more_real_images_than_samples_are_thinned_out() -> None:
    real = torch.cat([images(60, 0.0, 0), images(60, 5.0, 1)])
    assert measured(real, torch.cat([images(20, 0.0, 2), images(20, 5.0, 3)])) < 0.1 * measured(
        real, images(40, 0.0, 2)
    )


def test_blocks_of_one_are_refused() -> None:
    with pytest.raises(ValueError, match="block_size must be at least 2, got 1"):
        KID(block_size=1)
