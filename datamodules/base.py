"""The base of all data modules: splits, batches, and a training order that survives a restart."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, Literal

from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset

from tag_lightning.datamodules.batch import Batch
from tag_lightning.datamodules.loader import BatchIndices, batch_loader

Split = Literal["train", "val", "test"]
Half = Literal["first", "second"]


class TableDataModule(LightningDataModule):
    """Base class of data whose table maps a list of indices to a ``Batch``.

    Subclasses take the arguments they share with their base as ``**kwargs``, which the command line resolves.

    Args:
        batch_size: Samples per batch and process.
        num_workers: Worker processes of each loader; 0 is fastest for data in memory.
        seed: Seed of the training order. The splits do not depend on it.

    Attributes:
        num_classes: Number of values of each class attribute; known after ``setup``.

    Raises:
        ValueError: If ``batch_size`` is below 1 or ``num_workers`` below 0.
    """

    num_classes: dict[str, int]

    def __init__(self, batch_size: int, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}; 0 loads in the process itself")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._tables: dict[str, Dataset] = {}
        self._train_indices: BatchIndices | None = None
        self._resume_epoch = self._resume_at = 0

    @abstractmethod
    def build(self, split: Split) -> Dataset:
        """Return the table of one split and set ``num_classes``."""

    @abstractmethod
    def prepare_data(self) -> None:
        """Check that the data exist, and download them if configured to."""

    @property
    def network_arguments(self) -> dict[str, Any]:
        """Arguments that networks of these data take, by their names, as far as they are known before ``prepare_data``.

        The command line gives them to the network wherever the configuration does not. ``num_classes`` is a
        dictionary by attribute.
        """
        return {}

    @property
    def example(self) -> Batch:
        """A batch of one sample, for trial runs of networks."""
        return self.table("val")[[0]]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, ``(C, H, W)`` for images."""
        return tuple(self.example.x.shape[1:])

    def table(self, split: Split) -> Dataset:
        """The table of one split, built once."""
        if split not in self._tables:
            self._tables[split] = self.build(split)
        return self._tables[split]

    def setup(self, stage: str) -> None:
        """Load the validation data, which every stage needs: all of them sample.

        Raises:
            ValueError: If ``trainer.overfit_batches`` is set.
        """
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            # Lightning would replace our sampler by one of single indices.
            raise ValueError(
                "trainer.overfit_batches would replace the training order of these data; use "
                "--trainer.limit_train_batches and --trainer.limit_val_batches"
            )
        self.table("val")

    def train_dataloader(self) -> DataLoader[Any]:
        table = self.table("train")
        self._train_indices = self._indices(table, shuffle=True)
        # Workers take the first indices before Lightning has called `set_epoch`.
        self._train_indices.epoch, self._train_indices.start = self._resume_epoch, self._resume_at
        self._resume_at = 0
        return batch_loader(table, self._train_indices, self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """One empty step of Lightning's predict loop: samples are drawn from noise, not from data."""
        return DataLoader([0])  # type: ignore[arg-type]

    def reference_dataloader(self) -> DataLoader[Any]:
        """All training data in order, on every process: the reference that samples are compared with."""
        table = self.table("train")
        indices = BatchIndices(len(table), self.batch_size, shuffle=False)  # type: ignore[arg-type]
        return batch_loader(table, indices, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The current epoch and its number of completed batches."""
        if self.trainer is None:
            return {"epoch": 0, "batches_done": 0}
        loop = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        epoch = max(0, loop.epoch_progress.current.ready - 1)
        if progress.is_last_batch:
            return {"epoch": epoch + 1, "batches_done": 0}
        return {"epoch": epoch, "batches_done": progress.current.state_dict()["processed"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume_epoch, self._resume_at = state_dict.get("epoch", 0), state_dict["batches_done"]
        # Lightning expects the loader to hold the position and does not see that it is kept here.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    def _in_order(self, split: Split) -> DataLoader[Any]:
        table = self.table(split)
        return batch_loader(table, self._indices(table, shuffle=False), self.num_workers)

    def _indices(self, table: Dataset, shuffle: bool) -> BatchIndices:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.trainer and shuffle:
            return _TrainingIndices(self.trainer, table, self.batch_size, self.seed)
        return BatchIndices(len(table), self.batch_size, shuffle, self.seed, rank, world_size)  # type: ignore[arg-type]


class _TrainingIndices(BatchIndices):
    # Takes the epoch from the trainer: after a resume at the end of an epoch under `max_steps`, the epoch that
    # Lightning passes to samplers is one too high.
    def __init__(self, trainer: Trainer, table: Any, batch_size: int, seed: int) -> None:
        sizes = getattr(table, "sizes", None)
        super().__init__(len(table), batch_size, True, seed, trainer.global_rank, trainer.world_size, sizes)
        self._trainer = trainer

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(self._trainer.current_epoch)
