"""The base of data modules that hold the statistics of a data set and none of its samples."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, NoReturn

from torch.utils.data import DataLoader, Dataset

import tag_lightning
from tag_lightning.content_digest import content_key
from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.statistics_file import ReferenceStates

_SHIPPED = Path(tag_lightning.__file__).parent / "pretrained"


class StatisticsDataModule(TableDataModule):
    """Base class for the statistics of a data set, which let users without the data compare saved networks.

    Use it with ``ComparisonModule``, which neither trains nor validates. ``python -m benchmarks.data_statistics``
    writes the files.

    Args:
        file: The file, or the name of a shipped one such as ``qm9_small/statistics``.
        batch_size: Samples per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Attributes:
        reference_states: State of each metric by class name, restored in place of measuring real data.
        digest: Digest of the file's content, so that kept samples are not taken for those of another file.

    Raises:
        FileNotFoundError: If the file does not exist.
    """

    reference_states: ReferenceStates

    def __init__(self, file: str, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(batch_size, **kwargs)
        self.file = file
        self._path = Path(file) if Path(file).is_file() else _SHIPPED / f"{file}.safetensors"
        if not self._path.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; set data.init_args.file, or write the file with python -m "
                "benchmarks.data_statistics where the data set is"
            )
        self.digest = content_key(self._path.read_bytes())

    def prepare_data(self) -> None:
        """Nothing to do: the file was read when the module was made."""
        return

    def setup(self, stage: str) -> None:
        """Refuse modules that need samples.

        Raises:
            ValueError: If the module trains or validates a network.
        """
        if hasattr(getattr(self.trainer, "lightning_module", None), "network"):
            self.refuse()

    def build(self, split: Split) -> Dataset:
        if split != "train":
            self.refuse()
        return self.train_table()

    @abstractmethod
    def train_table(self) -> Dataset:
        """The training table without its samples; its length is known."""

    def train_dataloader(self) -> DataLoader[Any]:
        self.refuse()

    def val_dataloader(self) -> DataLoader[Any]:
        """One empty step, at whose end ``GuidedSampling`` compares."""
        return self.predict_dataloader()

    test_dataloader = val_dataloader

    def refuse(self) -> NoReturn:
        """Refuse what needs the samples.

        Raises:
            ValueError: Always.
        """
        _refuse(type(self).__name__)


class TableWithoutSamples(Dataset):
    """The training table of data whose statistics alone are known.

    It does not refer to the data module: a task that holds the table has a fingerprint, and a trainer has none.

    Args:
        owner: Name of the data module, for errors.
        length: Number of training samples.
    """

    def __init__(self, owner: str, length: int) -> None:
        self._owner, self._length = owner, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, indices: list[int]) -> NoReturn:
        _refuse(self._owner)


def _refuse(owner: str) -> NoReturn:
    raise ValueError(
        f"{owner} holds statistics of the training data, and none of their samples; to compare saved networks, use "
        "--model ComparisonModule; to train, or to measure what needs the samples, give the data set itself as --data"
    )
