"""Training batches of similar sizes keep all other properties of a training order."""

from __future__ import annotations

from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from tag_lightning.datamodules.loader import BatchIndices

CASES = {"length": st.integers(1, 200), "batch_size": st.integers(1, 9), "seed": st.integers(0, 9)}


def _sizes(length: int) -> torch.Tensor:
    return torch.randint(3, 30, (length,), generator=torch.Generator().manual_seed(length))


def _epoch(length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, epoch: int = 0) -> BatchIndices:
    indices = BatchIndices(length, batch_size, True, seed, rank, world, _sizes(length))
    indices.set_epoch(epoch)
    return indices


@given(**CASES)
def test_an_epoch_has_each_sample_at_most_once_and_few_are_left_out(length: int, batch_size: int, seed: int) -> None:
    indices = _epoch(length, batch_size, seed)
    batches = list(indices)
    assert len(batches) == len(indices)
    seen = [i for batch in batches for i in batch]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(length))
    assert len(seen) == length if length < batch_size else length - len(seen) < batch_size


@given(**CASES, world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_any_number_of_processes_sees_the_same_batches(
    length: int, batch_size: int, seed: int, world: int, epoch: int
) -> None:
    alone = list(_epoch(length, batch_size * world, seed, epoch=epoch))
    together = [list(_epoch(length, batch_size, seed, rank, world, epoch)) for rank in range(world)]
    assert [sorted(chain(*batches)) for batches in zip(*together, strict=True)] == [sorted(batch) for batch in alone]


@given(**CASES, start=st.integers(0, 30), epoch=st.integers(0, 3))
def test_an_epoch_goes_on_where_it_was_left(length: int, batch_size: int, seed: int, start: int, epoch: int) -> None:
    whole = list(_epoch(length, batch_size, seed, epoch=epoch))
    resumed = _epoch(length, batch_size, seed, epoch=epoch)
    resumed.start = start
    assert list(resumed) == whole[start:]
    assert list(resumed) == whole


def test_batches_hold_similar_sizes_and_differ_from_epoch_to_epoch() -> None:
    length, batch = 4000, 16
    sizes = _sizes(length)
    sorted_order, plain = list(_epoch(length, batch, 0)), list(BatchIndices(length, batch, True))

    def padded(batches: list[list[int]]) -> float:
        return sum(len(b) * int(sizes[b].max()) for b in batches) / sum(int(sizes[b].sum()) for b in batches)

    assert padded(sorted_order) < 1.1 < 1.5 < padded(plain)
    assert sorted(map(sorted, _epoch(length, batch, 0, epoch=1))) != sorted(map(sorted, sorted_order))
    # Steps of small and of large molecules are mixed.
    largest = torch.tensor([int(sizes[b].max()) for b in sorted_order], dtype=torch.float)
    assert abs(torch.corrcoef(torch.stack((largest[:-1], largest[1:])))[0, 1]) < 0.3
