"""Digits of which as many of each class are kept, and the distances of several kinds of samples."""

from __future__ import annotations

import pytest
import torch

from benchmarks.class_proportions import distances, evenly
from tag_lightning.datamodules import DigitsDataModule


def test_the_first_of_every_class_are_kept_in_order() -> None:
    labels = torch.tensor([1, 1, 0, 2, 1, 0, 2, 0])
    assert evenly(labels, 2, 3).tolist() == [0, 1, 2, 3, 5, 6]


def test_a_class_that_was_drawn_too_rarely_is_named() -> None:
    with pytest.raises(ValueError, match="class 2 was drawn 1 times, 2 are needed; raise --excess"):
        evenly(torch.tensor([0, 0, 1, 2, 1]), 2, 3)


def test_noise_is_farther_from_digits_than_digits_are() -> None:
    data = DigitsDataModule()
    data.setup("validate")
    real = next(iter(data.reference_dataloader())).x
    noise = torch.randn(len(real), *data.sample_shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    found = distances({"digits": real, "noise": noise}, hue=None)
    assert found["digits"].keys() == {"judge", "pixels"}
    for features in ("judge", "pixels"):
        assert found["noise"][features] > 5 * found["digits"][features]
