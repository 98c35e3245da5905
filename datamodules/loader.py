"""Batches in an order that an interrupted run can resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

_WINDOW = 16


class BatchIndices(DistributedSampler):
    """Sampler of index lists, sharded over processes.

    With ``shuffle``, for training, a global batch of ``world_size * batch_size`` samples is split over the
    processes. Without it, for evaluation, the processes take the batches of one process in turn, so that the
    batches do not depend on the number of processes; a process without batches yields an empty one, since
    Lightning would leave it out of the evaluation and the others would wait for it.

    The order of an epoch depends on the seed and the epoch alone, and ``start`` skips the batches that a
    resumed epoch has completed, so that a run continues with the sample it would have seen next, on any
    number of processes. Being a ``DistributedSampler`` makes Lightning call ``set_epoch`` and leave the
    sharding alone.

    Args:
        length: Number of samples.
        batch_size: Samples per batch and process.
        shuffle: Draw a new order every epoch and drop the incomplete last batch; False keeps the data's order
            and the incomplete last batch.
        seed: Seed of the order.
        rank: Index of this process.
        world_size: Number of processes.
        sizes: Size of each sample, ``[length]``; shuffled batches then hold samples of similar sizes, which
            saves padding.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sizes: Tensor | None = None,
    ) -> None:
        super().__init__(_Sized(length), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.length = length
        self.batch_size = batch_size
        self.sizes = sizes
        self.start = 0

    def __len__(self) -> int:
        if self.shuffle:
            return max(1, self.length // (self.batch_size * self.num_replicas))
        return max(1, len(range(0, self.length, self.batch_size)[self.rank :: self.num_replicas]))

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        if not self.shuffle:
            firsts = range(0, self.length, self.batch_size)[self.rank :: self.num_replicas]
            yield from (list(range(first, min(first + self.batch_size, self.length))) for first in firsts[start:])
            if not firsts and not start:
                yield []
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        global_batch = self.batch_size * self.num_replicas
        order = torch.randperm(self.length, generator=generator)
        if self.sizes is not None:
            order = _sorted_by_size(order, self.sizes, global_batch, generator)
        for k in range(start, len(self)):
            yield order[k * global_batch : (k + 1) * global_batch][self.rank :: self.num_replicas].tolist()


def _sorted_by_size(order: Tensor, sizes: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """``order [n]`` with samples of similar sizes in each batch, and the batches in random order.

    Sizes are sorted within windows of several batches, so that batches differ between epochs. The remainder that
    does not fill a batch is dropped before sorting; otherwise it would always be the largest samples.
    """
    whole = order[: len(order) // batch * batch] if len(order) >= batch else order
    windows = [window[sizes[window].argsort(stable=True)] for window in whole.split(batch * _WINDOW)]
    batches = torch.cat(windows).split(batch)
    return torch.cat([batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()])


class _Sized(Dataset):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def batch_loader(dataset: Dataset, indices: BatchIndices, num_workers: int = 0) -> DataLoader[Any]:
    """A loader whose data set maps a list of indices to one ``Batch``."""
    return DataLoader(
        dataset,
        sampler=indices,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
