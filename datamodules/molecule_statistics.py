"""What a comparison needs of real molecules, in a small file in place of the data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.content_digest import content_key
from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.batch import Batch
from tag_lightning.datamodules.molecule_store import Molecules
from tag_lightning.datamodules.molecules import MoleculeDataModule, MoleculeTable
from tag_lightning.files import replacing

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
    """What a comparison needs of a data set of molecules, none of whose geometries are kept.

    Attributes:
        encoding: Maps molecules to samples.
        largest: Number of atoms of the largest molecule, N of a sample ``[N, 3 + F]``.
        sizes: Number of atoms of each training molecule, ``[M]`` uint8.
        properties: Their properties by name, ``[M]`` float32 each; NaN where unknown.
        known: Their SMILES, hashed.
        findings: What metrics found in the molecules, by class; see ``SampleMetric.findings``.
    """

    encoding: MoleculeEncoding
    largest: int
    sizes: Tensor
    properties: dict[str, Tensor]
    known: HashedSmiles
    findings: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, data: MoleculeDataModule, findings: Mapping[str, dict[str, Any]]) -> MoleculeStatistics:
        """The statistics of a data module and what metrics found in it."""
        train: MoleculeTable = data.table("train")  # type: ignore[assignment]
        known = HashedSmiles.of(data.reference_smiles())
        sizes = train.sizes.to(torch.uint8)
        return cls(data.encoding, data.sample_shape[0], sizes, train.attributes, known, dict(findings))

    def save(self, path: Path) -> None:
        """Write a safetensors file, the same bytes for the same statistics.

        Raises:
            OSError: If the folder cannot be written.
        """
        tensors = {"sizes": self.sizes, "known": self.known.hashes}
        tensors |= {f"properties.{name}": values for name, values in self.properties.items()}
        numbers: dict[str, dict[str, Any]] = {}
        for metric, found in self.findings.items():
            tensors |= {f"{metric}.{name}": value for name, value in found.items() if isinstance(value, Tensor)}
            numbers[metric] = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
        settings = {
            "elements": self.encoding.elements,
            "feature_scale": self.encoding.feature_scale,
            "charge_scale": self.encoding.charge_scale,
            "largest": self.largest,
            "properties": list(self.properties),
            "findings": numbers,
        }
        with replacing(path) as temporary:
            # One entry, since safetensors does not keep the order of several.
            save_file(tensors, temporary, {"statistics": json.dumps(settings)})

    @classmethod
    def load(cls, path: Path) -> MoleculeStatistics:
        """Read what ``save`` wrote.

        Raises:
            ValueError: If the file is damaged or something else.
        """
        try:
            with safe_open(path, "pt") as file:
                settings = json.loads((file.metadata() or {})["statistics"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            scales = settings["feature_scale"], settings["charge_scale"]
            return cls(
                MoleculeEncoding(tuple(settings["elements"]), *scales),
                settings["largest"],
                tensors["sizes"],
                {name: tensors[f"properties.{name}"] for name in settings["properties"]},
                HashedSmiles(tensors["known"]),
                {name: found | _named(tensors, name) for name, found in settings["findings"].items()},
            )
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"{path} holds no statistics of molecules, or is damaged; copy it again, or write it with "
                "python -m benchmarks.molecule_statistics"
            ) from error


def _named(tensors: Mapping[str, Tensor], metric: str) -> dict[str, Tensor]:
    prefix = f"{metric}."
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


class MoleculeStatisticsDataModule(TableDataModule):
    """Statistics of a data set of molecules, for comparisons by a user who does not have it.

    Targets, sizes, novelty and the figures of real molecules are those of the data set itself. There are no molecules
    to train or to validate on: the module beside it is ``ComparisonModule``. ``python -m
    benchmarks.molecule_statistics`` writes the file.

    Args:
        file: A file of ``MoleculeStatistics``.
        batch_size: Molecules per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Attributes:
        encoding: Maps molecules to samples and back.
        findings: What metrics found in the data set, by class; they compare with that.
        digest: Digest of the file's content, so that kept samples are not taken for those of another file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds something else.
    """

    def __init__(self, file: str, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(batch_size, **kwargs)
        self.file = file
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; set data.init_args.file, or write the file with python -m "
                "benchmarks.molecule_statistics where the data set is"
            )
        self.digest = content_key(path.read_bytes())
        self._statistics = MoleculeStatistics.load(path)
        self.encoding = self._statistics.encoding
        self.findings = self._statistics.findings
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

    def prepare_data(self) -> None:
        """Nothing to do: the file was read when the module was made."""
        return

    def setup(self, stage: str) -> None:
        """Refuse modules that need molecules.

        Raises:
            ValueError: If the module trains or validates a network.
        """
        if hasattr(getattr(self.trainer, "lightning_module", None), "network"):
            _refuse()

    def build(self, split: Split) -> Dataset:
        if split != "train":
            _refuse()
        return _SizesAndProperties(self._statistics)

    def reference_smiles(self, split: Split = "train") -> HashedSmiles:
        """SMILES of the training molecules, hashed; see ``MoleculeDataModule.reference_smiles``."""
        if split != "train":
            _refuse()
        return self._statistics.known

    def train_dataloader(self) -> DataLoader[Any]:
        _refuse()

    def val_dataloader(self) -> DataLoader[Any]:
        """One empty step, at whose end ``GuidedSampling`` compares."""
        return self.predict_dataloader()

    test_dataloader = val_dataloader


class _SizesAndProperties(Dataset):
    """Sizes and properties of the training molecules, of which there is no more."""

    def __init__(self, statistics: MoleculeStatistics) -> None:
        self.sizes = statistics.sizes.long()
        self.attributes = statistics.properties

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, indices: list[int]) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise ValueError(
        "MoleculeStatisticsDataModule has sizes and properties of the training molecules alone; to compare saved "
        "networks, use --model ComparisonModule; to train, or to measure what needs the molecules, give the data set "
        "itself, such as --data QM9DataModule"
    )
