"""What a comparison needs of real molecules, in a small file in place of the data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
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
from tag_lightning.datamodules.molecule_store import Molecules
from tag_lightning.datamodules.molecules import MoleculeDataModule, MoleculeTable
from tag_lightning.datamodules.reference_smiles import reference_smiles
from tag_lightning.feature_moments import FeatureMoments
from tag_lightning.files import replacing

_MOLECULES = ("val", "test")
_CHEMNET = "chemnet."


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
    """What a comparison needs of a data set of molecules.

    Attributes:
        encoding: Maps molecules to samples.
        largest: Number of atoms of the largest molecule, N of a sample ``[N, 3 + F]``.
        sizes: Number of atoms of each training molecule, ``[M]`` uint8.
        properties: Their properties by name, ``[M]`` float32 each; NaN where unknown.
        known: Their SMILES, hashed.
        molecules: Some real molecules of the splits ``val`` and ``test``, with their properties.
        chemnet: Moments of ChemNet's features of the training molecules; None without the metric ``FCD``.
    """

    encoding: MoleculeEncoding
    largest: int
    sizes: Tensor
    properties: dict[str, Tensor]
    known: HashedSmiles
    molecules: dict[Split, Molecules]
    chemnet: FeatureMoments | None = None

    @classmethod
    def of(
        cls,
        data: MoleculeDataModule,
        chemnet: FeatureMoments | None = None,
        num_val: int = 150,
        num_test: int = 500,
    ) -> MoleculeStatistics:
        """The statistics of a data module, with molecules of its validation and test split drawn at random.

        Args:
            data: The molecules.
            chemnet: Moments of ChemNet's features, see ``FCD.moments``.
            num_val: Validation molecules; as many as ``PhysicsError`` calibrates with, and the same.
            num_test: Test molecules.
        """
        train: MoleculeTable = data.table("train")  # type: ignore[assignment]
        drawn: dict[Split, Molecules] = {}
        for split, count in zip(_MOLECULES, (num_val, num_test), strict=True):
            molecules = data.table(split).molecules  # type: ignore[attr-defined,arg-type]
            order = torch.randperm(len(molecules), generator=torch.Generator().manual_seed(0))
            drawn[split] = molecules.select(order[:count])  # type: ignore[index]
        known = HashedSmiles.of(data.reference_smiles())
        sizes = train.sizes.to(torch.uint8)
        return cls(data.encoding, data.sample_shape[0], sizes, train.attributes, known, drawn, chemnet)

    def save(self, path: Path) -> None:
        """Write a safetensors file, the same bytes for the same statistics.

        Raises:
            OSError: If the folder cannot be written.
        """
        tensors = {"sizes": self.sizes, "known": self.known.hashes}
        tensors |= {f"properties.{name}": values for name, values in self.properties.items()}
        for split, molecules in self.molecules.items():
            real = molecules.numbers > 0
            tensors |= {f"{split}.sizes": molecules.sizes, f"{split}.numbers": molecules.numbers[real]}
            tensors |= {f"{split}.positions": molecules.positions[real]}
            tensors |= {f"{split}.properties.{n}": values for n, values in molecules.properties.items()}
        if self.chemnet is not None:
            tensors |= {f"{_CHEMNET}{name}": values for name, values in self.chemnet.packed().items()}
        settings = {
            "elements": self.encoding.elements,
            "feature_scale": self.encoding.feature_scale,
            "charge_scale": self.encoding.charge_scale,
            "largest": self.largest,
            "properties": list(self.properties),
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
            names = settings["properties"]
            chemnet = {n.removeprefix(_CHEMNET): values for n, values in tensors.items() if n.startswith(_CHEMNET)}
            return cls(
                MoleculeEncoding(tuple(settings["elements"]), *scales),
                settings["largest"],
                tensors["sizes"],
                {name: tensors[f"properties.{name}"] for name in names},
                HashedSmiles(tensors["known"]),
                {split: _unpacked(tensors, split, names) for split in _MOLECULES},  # type: ignore[misc]
                FeatureMoments.unpacked(chemnet) if chemnet else None,
            )
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{path} holds no statistics of molecules, or is damaged; copy it again, or write it with "
                "python -m benchmarks.molecule_statistics"
            ) from error


def _unpacked(tensors: dict[str, Tensor], split: str, names: Sequence[str]) -> Molecules:
    parts = tensors[f"{split}.sizes"].tolist()
    packed = (tensors[f"{split}.{name}"].split(parts) for name in ("numbers", "positions"))
    padded = [torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True) for rows in packed]
    properties = {name: tensors[f"{split}.properties.{name}"] for name in names}
    return Molecules(padded[0], padded[1], properties, ("",) * len(parts))


class MoleculeStatisticsDataModule(TableDataModule):
    """Statistics of a data set of molecules, for comparisons by a user who does not have it.

    Targets, sizes and novelty are those of the data set itself. ``val`` and ``test`` hold some of its molecules, so
    that figures of real data are those of a sample. Networks cannot be trained on it. ``python -m
    benchmarks.molecule_statistics`` writes the file.

    Args:
        file: A file of ``MoleculeStatistics``.
        batch_size: Molecules per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Attributes:
        encoding: Maps molecules to samples and back.
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
        self.num_classes = {}

    @property
    def network_arguments(self) -> dict[str, Any]:
        return {"num_features": self.encoding.num_features, "properties": list(self._statistics.properties)}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """``(N, 3 + F)``, with N the number of atoms of the largest molecule."""
        return (self._statistics.largest, 3 + self.encoding.num_features)

    @property
    def chemnet(self) -> FeatureMoments:
        """Moments of ChemNet's features of the training molecules.

        Raises:
            ValueError: If the file has none.
        """
        if self._statistics.chemnet is None:
            raise ValueError(
                f"{self.file} has no features of ChemNet; remove the metric FCD, or write the file where fcd-torch is "
                "installed"
            )
        return self._statistics.chemnet

    def prepare_data(self) -> None:
        """Nothing to do: the file was read when the module was made."""
        return

    def build(self, split: Split) -> Dataset:
        if split == "train":
            return _SizesAndProperties(self._statistics)
        return MoleculeTable(self._statistics.molecules[split], self.encoding)

    def reference_smiles(self, split: Split = "train") -> HashedSmiles | frozenset[str]:
        """SMILES of a split, hashed ones of the training molecules; see ``MoleculeDataModule.reference_smiles``."""
        if split == "train":
            return self._statistics.known
        return reference_smiles(self._statistics.molecules[split], None, split)

    def train_dataloader(self) -> DataLoader[Any]:
        _refuse()


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
        "MoleculeStatisticsDataModule has sizes and properties of the training molecules alone; to train, or to "
        "measure what needs the molecules, give the data set itself, such as --data QM9DataModule"
    )
