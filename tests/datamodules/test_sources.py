"""Digits, mixture and CIFAR-10: splits, values, attributes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tag_lightning.datamodules import Batch, CIFAR10DataModule, DigitsDataModule, MixtureDataModule
from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.tables import TintedTable

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def _all(data: TableDataModule, split: Split) -> Batch:
    table = data.table(split)
    return table[list(range(len(table)))]  # type: ignore[arg-type]


def _rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def test_splits_of_digits_have_all_images_once() -> None:
    data = DigitsDataModule(size=8, tinted=False)
    splits = [_all(data, split).x for split in SPLITS]
    assert [len(x) for x in splits] == [1437, 180, 180]
    # No two of scikit-learn's digits are equal, so equal rows would be the same digit.
    assert len(set().union(*map(_rows, splits))) == 1797


@pytest.mark.parametrize("tinted", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_splits_do_not_depend_on_the_seed(split: Split, tinted: bool) -> None:
    first, second = (_all(DigitsDataModule(size=8, tinted=tinted, seed=seed), split) for seed in (0, 1))
    assert torch.equal(first.x, second.x)
    assert all(torch.equal(first.attributes[name], second.attributes[name]) for name in first.attributes)


@pytest.mark.parametrize("size", [8, 12, 16])
def test_digits_are_images_between_minus_one_and_one(size: int) -> None:
    x = _all(DigitsDataModule(size=size), "val").x
    assert x.shape == (180 * 8, 3, size, size)
    assert x.dtype == torch.float32
    assert x.min() == pytest.approx(-1)
    assert 0.9 < x.max() <= 1


def test_every_digit_comes_in_every_hue() -> None:
    data = DigitsDataModule(size=8)
    batch = _all(data, "train")
    label, hue = batch.attributes["label"], batch.attributes["hue"]
    assert data.num_classes == {"label": 10, "hue": 8}
    table = torch.zeros(10, 8, dtype=torch.long).index_put_((label, hue), torch.tensor(1), accumulate=True)
    assert (table == table[:, :1]).all(), "label and hue are independent"
    assert (table > 0).all()


def test_tinting_keeps_black_and_the_brightest_channel() -> None:
    grey = DigitsDataModule(size=8, tinted=False).table("val")
    tinted = TintedTable(grey)  # type: ignore[arg-type]
    for hue in range(8):
        x = tinted[[5 * 8 + hue]].x
        assert torch.allclose(x.amax(1, keepdim=True), grey[[5]].x, atol=1e-6)
        assert not torch.allclose(x[:, 0], x[:, 1], atol=1e-2) or not torch.allclose(x[:, 1], x[:, 2], atol=1e-2)


def test_halves_share_no_digit_and_leave_the_other_splits_whole() -> None:
    whole, first, second = (
        DigitsDataModule(size=8, tinted=False, half=half)  # type: ignore[arg-type]
        for half in (None, "first", "second")
    )
    rows = [_rows(_all(data, "train").x) for data in (whole, first, second)]
    assert not rows[1] & rows[2]
    assert rows[1] | rows[2] == rows[0]
    assert torch.equal(_all(first, "val").x, _all(second, "val").x)


def test_digits_cannot_be_shrunk() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        DigitsDataModule(size=4)


@pytest.mark.parametrize("centre", [10.0, 3.0])
def test_the_mixture_has_the_moments_it_states(centre: float) -> None:
    data = MixtureDataModule(centre=centre, num_points=20_000)
    batch = _all(data, "train")
    component = batch.attributes["component"]
    assert component.float().mean() == pytest.approx(0.5, abs=0.02)
    for k, sign in ((0, 1), (1, -1)):
        points = batch.x[component == k]
        assert torch.allclose(points.mean(0), torch.full((2,), sign * centre), atol=0.05)
        assert torch.allclose(points.T.cov(), torch.eye(2), atol=0.05)


def test_splits_of_the_mixture_are_different_draws() -> None:
    data = MixtureDataModule(num_points=200)
    rows = [_rows(_all(data, split).x) for split in SPLITS]
    assert [len(r) for r in rows] == [200, 20, 20]
    assert len(set().union(*rows)) == 240
    assert torch.equal(_all(data, "val").x, _all(MixtureDataModule(num_points=200, seed=3), "val").x)


def test_too_few_points_and_impossible_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="num_points must be at least 20"):
        MixtureDataModule(num_points=19)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        MixtureDataModule(batch_size=0)


def test_missing_cifar10_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not in .*download=true"):
        CIFAR10DataModule(root=str(tmp_path)).prepare_data()


def test_the_reference_is_the_training_data_in_order() -> None:
    data = DigitsDataModule(size=8, tinted=False, batch_size=1000)
    x = torch.cat([batch.x for batch in data.reference_dataloader()])
    assert torch.equal(x, _all(data, "train").x)
