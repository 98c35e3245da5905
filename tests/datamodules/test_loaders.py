"""Evaluation sees the same batches on any number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from PIL import Image

from tag_lightning.datamodules import DigitsDataModule, ImageFolderDataModule
from tag_lightning.datamodules.loader import BatchIndices
from tag_lightning.modules import PropertyModule
from tag_lightning.networks import ImageClassifier

SIZES = {"length": st.integers(1, 60), "batch_size": st.integers(1, 9), "world_size": st.integers(1, 5)}


@given(**SIZES)
def test_processes_take_the_batches_of_one_process_in_turn(length: int, batch_size: int, world_size: int) -> None:
    alone = list(BatchIndices(length, batch_size, shuffle=False))
    together = [list(BatchIndices(length, batch_size, False, 0, rank, world_size)) for rank in range(world_size)]
    assert sorted(batch for rank in together for batch in rank if batch) == alone
    for k, batch in enumerate(alone):
        assert together[k % world_size][k // world_size] == batch


@given(**SIZES)
def test_no_process_is_left_without_a_batch(length: int, batch_size: int, world_size: int) -> None:
    for rank in range(world_size):
        assert len(BatchIndices(length, batch_size, False, 0, rank, world_size)) >= 1


def test_an_empty_batch_has_the_shape_of_the_data() -> None:
    batch = DigitsDataModule(size=8).table("val")[[]]
    assert batch.x.shape == (0, 3, 8, 8)
    assert all(len(values) == 0 for values in batch.attributes.values())


def test_loaders_yield_the_incomplete_last_batch_in_evaluation_only() -> None:
    data = DigitsDataModule(size=8, batch_size=1000)
    assert [len(batch.x) for batch in data.train_dataloader()] == [1000] * 11
    assert [len(batch.x) for batch in data.val_dataloader()] == [1000, 440]
    everything = torch.cat([batch.x for batch in data.reference_dataloader()])
    assert everything.shape == (1437 * 8, 3, 8, 8)


def test_an_empty_batch_of_files_has_their_shape(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a" / "0.png")
    data = ImageFolderDataModule(str(tmp_path), size=8, in_memory=False, mirror=True)
    assert data.table("test")[[]].x.shape == (0, 3, 8, 8)


def test_every_loader_of_data_has_the_workers_asked_for() -> None:
    alone, helped = DigitsDataModule(size=8, batch_size=1000), DigitsDataModule(size=8, batch_size=1000, num_workers=2)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "reference_dataloader"):
        assert getattr(helped, name)().num_workers == 2
    for name in ("val_dataloader", "reference_dataloader"):
        first, second = (torch.cat([batch.x for batch in getattr(data, name)()]) for data in (alone, helped))
        assert torch.equal(first, second)


def test_overfitting_a_few_batches_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", overfit_batches=2, logger=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"overfit_batches would replace .*--trainer\.limit_train_batches"):
        trainer.fit(PropertyModule(ImageClassifier(widths=(8, 8))), datamodule=DigitsDataModule(size=8))
