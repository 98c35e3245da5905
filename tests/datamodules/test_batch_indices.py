"""The order of batches: sharded over processes without loss, and resumable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tag_lightning.datamodules.loader import BatchIndices

sizes = st.integers(1, 60)
batch_sizes = st.integers(1, 9)
world_sizes = st.integers(1, 5)
epochs = st.integers(0, 3)


def _indices(epoch: int = 0, **settings: Any) -> BatchIndices:
    indices = BatchIndices(**settings)
    indices.set_epoch(epoch)
    return indices


def _ranks(world_size: int, epoch: int = 0, **settings: Any) -> list[list[list[int]]]:
    return [list(_indices(epoch, rank=rank, world_size=world_size, **settings)) for rank in range(world_size)]


@given(sizes, batch_sizes, world_sizes)
def test_evaluation_sees_every_sample_exactly_once(length: int, batch_size: int, world_size: int) -> None:
    ranks = _ranks(world_size, length=length, batch_size=batch_size, shuffle=False)
    seen = [i for rank in ranks for batch in rank for i in batch]
    assert sorted(seen) == list(range(length))


@given(sizes, batch_sizes, world_sizes, epochs)
def test_processes_share_the_global_batches_of_training(
    length: int, batch_size: int, world_size: int, epoch: int
) -> None:
    global_batch = batch_size * world_size
    whole = list(_indices(epoch, length=length, batch_size=global_batch, shuffle=True))
    ranks = _ranks(world_size, epoch, length=length, batch_size=batch_size, shuffle=True)
    assert {len(rank) for rank in ranks} == {len(whole)}
    for step, expected in enumerate(whole):
        assert sorted(i for rank in ranks for i in rank[step]) == sorted(expected)
    seen = [i for batch in whole for i in batch]
    assert len(seen) == len(set(seen))


@given(sizes, batch_sizes, world_sizes)
def test_training_drops_the_incomplete_batch_unless_it_is_the_only_one(
    length: int, batch_size: int, world_size: int
) -> None:
    global_batch = batch_size * world_size
    ranks = _ranks(world_size, length=length, batch_size=batch_size, shuffle=True)
    if length >= global_batch:
        assert all(len(batch) == batch_size for rank in ranks for batch in rank)
    count = max(1, length // global_batch) * global_batch
    assert sum(len(batch) for rank in ranks for batch in rank) == min(length, count)


@given(sizes, batch_sizes, world_sizes, epochs, st.booleans(), st.data())
def test_a_resumed_epoch_continues_with_the_next_batch(
    length: int, batch_size: int, world_size: int, epoch: int, shuffle: bool, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world_size - 1))
    indices = _indices(epoch, length=length, batch_size=batch_size, shuffle=shuffle, rank=rank, world_size=world_size)
    whole = list(indices)
    indices.start = data.draw(st.integers(0, len(whole)))
    expected = whole[indices.start :]
    assert list(indices) == expected
    assert list(indices) == whole, "only the first epoch after a restart is shorter"


@given(sizes, batch_sizes, world_sizes, st.booleans())
def test_the_length_is_the_number_of_batches(length: int, batch_size: int, world_size: int, shuffle: bool) -> None:
    for rank in range(world_size):
        indices = _indices(length=length, batch_size=batch_size, shuffle=shuffle, rank=rank, world_size=world_size)
        assert len(indices) == len(list(indices))


@pytest.mark.parametrize("changed", [{"seed": 1}, {"epoch": 1}])
def test_the_order_changes_with_seed_and_epoch_only(changed: dict[str, int]) -> None:
    settings = {"length": 50, "batch_size": 10, "shuffle": True}
    first = list(_indices(**settings))
    assert list(_indices(**settings)) == first
    assert list(_indices(**settings, **changed)) != first
