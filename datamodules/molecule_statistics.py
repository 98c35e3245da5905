"""The statistics of real molecules that a comparison needs, in a small file in place of the data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.batch import Batch
from tag_lightning.datamodules.molecule_store import Molecules
from tag_lightning.datamodules.molecules import MoleculeDataModule, MoleculeTable
from tag_lightning.datamodules.statistics import StatisticsDataModule, TableWithoutSamples
from tag_lightning.datamodules.statistics_file import ReferenceStates, read_statistics, write_statistics

# Angstrom between the atoms of the example, farther than any bond.
_SPACING = 2.0


class HashedSmiles:
    """A set of SMILES of which only the hashes are kept, 64 bits of SHA-256 each.

    A SMILES that is not in it passes for one of its ``n`` with a probability of ``n / 2^64``: 3e-15 for 50,000.

    Args:
        hashes: As ``of`` makes them, ``[n]`` int64.
    """

    def __init__(self, hashes: Tensor) -> None:
        self.hashes = hashes
        self._known = frozenset(hashes.tolist())

    @classmethod
    def of(cls, smiles: Iterable[str]) -> HashedSmiles:
        """The hashes of these SMILES, in ascending order."""
        return cls(torch.tensor(sorted(map(_hash, smiles)), dtype=torch.int64))

    def __contains__(self, smiles: str) -> bool:
        return _hash(smiles) in self._known

    def __len__(self) -> int:
        return len(self._known)


def _hash(smiles: str) -> int:
    return int.from_bytes(hashlib.sha256(smiles.encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class MoleculeStatistics:
    """The statistics of a data set of molecules that a comparison needs; they contain no geometry.

    Attributes:
        encoding: Maps molecules to samples.
        largest: Number of atoms of the largest molecule, N of a sample ``[N, 3 + F]``.
        sizes: Number of atoms of each training molecule, ``[M]`` int16.
        properties: Their properties by name, ``[M]`` float32 each; NaN where unknown.
        known: Their SMILES, hashed.
        reference_states: State of each metric by class name, see ``SampleMetric.reference_state``.
    """

    encoding: MoleculeEncoding
    largest: int
    sizes: Tensor
    properties: dict[str, Tensor]
    known: HashedSmiles
    reference_states: ReferenceStates

    @classmethod
    def of(cls, data: MoleculeDataModule, reference_states: Mapping[str, dict[str, Any]]) -> MoleculeStatistics:
        """The statistics of a data module, with the states of metrics that were prepared on it."""
        train: MoleculeTable = data.table("train")  # type: ignore[assignment]
        known = HashedSmiles.of(data.reference_smiles())
        sizes = train.sizes.to(torch.int16)
        return cls(data.encoding, data.sample_shape[0], sizes, train.attributes, known, dict(reference_states))

    def save(self, path: Path) -> None:
        """Write the file, see ``write_statistics``."""
        tensors = {"sizes": self.sizes, "known": self.known.hashes}
        tensors |= {f"properties.{name}": values for name, values in self.properties.items()}
        settings = {
            "elements": self.encoding.elements,
            "feature_scale": self.encoding.feature_scale,
            "charge_scale": self.encoding.charge_scale,
            "largest": self.largest,
            "properties": list(self.properties),
        }
        write_statistics(path, settings, tensors, self.reference_states)

    @classmethod
    def load(cls, path: Path) -> MoleculeStatistics:
        """Read what ``save`` wrote, see ``read_statistics``."""

        def build(settings: dict[str, Any], tensors: dict[str, Tensor], states: ReferenceStates) -> MoleculeStatistics:
            scales = settings["feature_scale"], settings["charge_scale"]
            return cls(
                MoleculeEncoding(tuple(settings["elements"]), *scales),
                settings["largest"],
                tensors["sizes"],
                {name: tensors[f"properties.{name}"] for name in settings["properties"]},
                HashedSmiles(tensors["known"]),
                states,
            )

        return read_statistics(path, "molecules", build)


class MoleculeStatisticsDataModule(StatisticsDataModule):
    """Statistics of a data set of molecules; see ``StatisticsDataModule``.

    Targets, sizes, novelty and the figures of real molecules are those of the data set itself.

    Args:
        file: A file of ``MoleculeStatistics``, or a shipped one's name.
        batch_size: Molecules per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Attributes:
        encoding: Maps molecules to samples and back.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds something else.
    """

    def __init__(self, file: str, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(file, batch_size, **kwargs)
        self._statistics = MoleculeStatistics.load(self._path)
        self.encoding = self._statistics.encoding
        self.reference_states = self._statistics.reference_states
        self.num_classes = {}

    @property
    def network_arguments(self) -> dict[str, Any]:
        return {"num_features": self.encoding.num_features, "properties": list(self._statistics.properties)}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """``(N, 3 + F)``, with N the number of atoms of the largest molecule."""
        return (self._statistics.largest, 3 + self.encoding.num_features)

    @property
    def example(self) -> Batch:
        """A batch of one made-up molecule of the largest size, with real properties, for trial runs of networks."""
        count = self._statistics.largest
        numbers = torch.full((1, count), self.encoding.elements[0])
        positions = _SPACING * torch.eye(3).repeat(count, 1)[:count].cumsum(0)
        properties = {name: values[:1] for name, values in self._statistics.properties.items()}
        return MoleculeTable(Molecules(numbers, positions[None], properties, ("",)), self.encoding)[[0]]

    def train_table(self) -> Dataset:
        return _SizesAndProperties(type(self).__name__, self._statistics)

    def reference_smiles(self, split: Split = "train") -> HashedSmiles:
        """SMILES of the training molecules, hashed; see ``MoleculeDataModule.reference_smiles``."""
        if split != "train":
            self.refuse()
        return self._statistics.known


class _SizesAndProperties(TableWithoutSamples):
    """A table of which only sizes and properties are known."""

    def __init__(self, owner: str, statistics: MoleculeStatistics) -> None:
        super().__init__(owner, len(statistics.sizes))
        self.sizes = statistics.sizes.long()
        self.attributes = statistics.properties
