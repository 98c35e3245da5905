"""The base of molecule data: splits, halves, and batches of padded, masked molecules."""

from __future__ import annotations

import csv
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from rdkit import Chem, rdBase
from torch import Tensor
from torch.utils.data import Dataset

from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.datamodules.base import Half, Split, TableDataModule
from tag_lightning.datamodules.batch import Batch
from tag_lightning.datamodules.molecule_store import CACHE_REMEDY, Molecules
from tag_lightning.datamodules.reference_smiles import reference_smiles
from tag_lightning.datamodules.tables import fixed_order
from tag_lightning.files import replacing_in_cache

QM9_ELEMENTS = ("H", "C", "N", "O", "F")


class MoleculeTable(Dataset):
    """Molecules in batches that are padded to their largest molecule.

    Args:
        molecules: Molecules of the encoding's elements.
        encoding: Maps molecules to samples.
    """

    def __init__(self, molecules: Molecules, encoding: MoleculeEncoding) -> None:
        self.encoding = encoding
        self.molecules = molecules
        self.sizes = molecules.sizes
        self.attributes = {name: values.float() for name, values in molecules.properties.items()}

    def __len__(self) -> int:
        return len(self.molecules)

    def __getitem__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices, dtype=torch.long)
        width = int(self.sizes[rows].max()) if indices else 1
        numbers = self.molecules.numbers[rows, :width]
        x = self.encoding.encode(numbers, self.molecules.positions[rows, :width])
        return Batch(x, {name: values[rows] for name, values in self.attributes.items()}, {"mask": numbers > 0})


class MoleculeDataModule(TableDataModule):
    """Base class of molecules ``[B, N, 3 + F]``: centred positions in angstrom, then scaled one-hot elements.

    Padding is exactly zero; the input ``mask [B, N]`` is True at atoms. Attributes are the properties, in the
    units of ``tag_lightning.chemistry.units``.

    Args:
        properties: Labels that batches carry. RDKit computes those that the source lacks: ``alpha`` (bohr^3),
            ``mu`` (debye), or a descriptor by its name.
        cache: Folder for prepared molecules; null prepares them anew in every run.
        elements: Symbols, in the order of the one-hot columns; molecules with others are left out.
        max_atoms: Larger molecules are left out; null keeps all.
        batch_size: Molecules per batch and process.
        half: Train on one half of the training molecules only, so that a guide and a judge share none.
        unlabelled: Keep molecules that lack a property; its value is NaN in batches. For networks that need no labels,
            such as denoisers. False leaves out molecules that lack one of ``properties``.
        feature_scale: Divisor of the one-hot columns; null takes that of the data set.
        charge_scale: Divisor of the atomic number in a last column; null leaves the column out. EDM's published
            networks take 4 and 10; time predictors with ``decided_elements`` need null.
        **kwargs: Arguments of ``TableDataModule``.

    Attributes:
        name: Prefix of file names in the cache.
        num_classes: Empty: molecules have quantities.
        encoding: Maps molecules to samples and back.

    Raises:
        ValueError: If ``max_atoms`` is below 1, an element is unknown, an element or a property repeated, or a scale
            not above 0.
    """

    name = "molecules"
    default_feature_scale = 4.0

    def __init__(
        self,
        properties: Sequence[str] = ("alpha", "mu"),
        cache: str | None = "data/molecules",
        elements: Sequence[str] = QM9_ELEMENTS,
        max_atoms: int | None = None,
        batch_size: int = 64,
        half: Half | None = None,
        unlabelled: bool = False,
        feature_scale: float | None = None,
        charge_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size, **kwargs)
        for scale, value in (("feature_scale", feature_scale), ("charge_scale", charge_scale)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{scale} must be a finite number above 0, got {value}; null takes the default")
        if max_atoms is not None and max_atoms < 1:
            raise ValueError(f"max_atoms must be at least 1, got {max_atoms}; null keeps molecules of any size")
        self.properties = tuple(properties)
        if len(set(self.properties)) < len(self.properties):
            raise ValueError(f"properties must be different, got {', '.join(self.properties)}; name each one once")
        self.elements = tuple(elements)
        self.max_atoms = max_atoms
        self.half = half
        self.unlabelled = unlabelled
        self.cache = None if cache is None else Path(cache)
        self.num_classes = {}
        numbers = tuple(atomic_number(symbol) for symbol in self.elements)
        if not numbers:
            raise ValueError("elements is empty; give at least one symbol, such as C")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"elements must be different, got {', '.join(self.elements)}; name each one once")
        self.encoding = MoleculeEncoding(numbers, feature_scale or self.default_feature_scale, charge_scale)
        self._loaded: tuple[Molecules, Tensor, int] | None = None
        self._known: dict[Split, frozenset[str]] = {}

    @property
    def network_arguments(self) -> dict[str, Any]:
        return {"num_features": self.encoding.num_features, "properties": list(self.properties)}

    @abstractmethod
    def load(self) -> Molecules:
        """Return all molecules with their properties, in a fixed order."""

    def prepare_data(self) -> None:
        """Prepare and cache the molecules, and list those left out, with reasons, in ``<cache>/<name>-skipped.csv``."""
        skipped = self.molecules.skipped
        if self.cache is None:
            return
        report = self.cache / f"{self.name}-skipped.csv"
        if not skipped:
            report.unlink(missing_ok=True)
            return
        with (
            replacing_in_cache(report, CACHE_REMEDY) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            csv.writer(file).writerows([("molecule", "reason"), *skipped])

    def split(self, count: int) -> dict[Split, Tensor]:
        """Indices of each split among ``count`` molecules: 80 / 10 / 10 % by a fixed order."""
        order = fixed_order(count)
        first, second = count * 8 // 10, count * 9 // 10
        return {"train": order[:first], "val": order[first:second], "test": order[second:]}

    def source_splits(self, count: int) -> dict[Split, Tensor]:
        """Rows of each split among the ``count`` molecules that were loaded; ``split`` unless the source lists them."""
        return self.split(count)

    def halves(self, count: int) -> tuple[Tensor, Tensor]:
        """Indices of both halves among ``count`` training molecules in the order of ``split``."""
        first, second = torch.arange(count).tensor_split([count // 2])
        return first, second

    def reference_smiles(self, split: Split = "train") -> frozenset[str]:
        """Distinct SMILES of a split, perceived from geometries like those of samples; others count as novel.

        Raises:
            ValueError: If an element has no bond lengths.
        """
        if split not in self._known:
            molecules = self.table(split).molecules  # type: ignore[attr-defined]
            self._known[split] = reference_smiles(molecules, self.cache, self.name)
        return self._known[split]

    @property
    def molecules(self) -> Molecules:
        """All usable molecules, loaded once."""
        return self._usable()[0]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """``(N, 3 + F)``, with N the number of atoms of the largest molecule."""
        return (self.molecules.numbers.shape[1], 3 + self.encoding.num_features)

    def build(self, split: Split) -> MoleculeTable:
        molecules, source_rows, total = self._usable()
        chosen = self.source_splits(total)[split]
        if split == "train" and self.half is not None:
            chosen = chosen[self.halves(len(chosen))[self.half == "second"]]
        # Splits and halves index the source, so that leaving molecules out does not move others between them.
        row = torch.full((total,), -1).scatter(0, source_rows, torch.arange(len(molecules)))[chosen]
        row = row[row >= 0]
        if not len(row):
            raise ValueError(
                f"none of the {len(molecules)} usable molecules are in the {split} split; provide more molecules, or "
                "raise data.init_args.max_atoms"
            )
        return MoleculeTable(molecules.select(row), self.encoding)

    def _usable(self) -> tuple[Molecules, Tensor, int]:
        """The usable molecules, their rows in the source, and the length of the source."""
        if self._loaded is None:
            source = self._with_properties(self.load())
            usable, rows = source.restricted(self.encoding.elements, self.max_atoms, self.unlabelled)
            _require_enough(usable)
            if self.unlabelled:
                _report_unlabelled(usable)
            self._loaded = usable, rows, len(source)
        return self._loaded

    def _with_properties(self, source: Molecules) -> Molecules:
        known = [name for name, values in source.properties.items() if values.isfinite().any()]
        missing = [name for name in self.properties if name not in known]
        if missing and bool((source.sizes > 0).any()):
            raise ValueError(
                f"the molecules have no values of the property {missing[0]!r}, only of {', '.join(known) or '(none)'}; "
                "see data.init_args.properties"
            )
        return replace(source, properties={name: source.properties[name] for name in self.properties if len(source)})


def _require_enough(molecules: Molecules) -> None:
    total = len(molecules) + len(molecules.skipped)
    reasons = Counter(reason for _, reason in molecules.skipped)
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        name, reason = molecules.skipped[0]
        warnings.warn(
            f"{len(molecules.skipped)} of {total} molecules were left out: {listed} (first: {name}, {reason})",
            stacklevel=2,
        )
    if len(molecules) < 10:
        why = "".join(f" ({count} left out: {reason})" for reason, count in reasons.most_common(1))
        raise ValueError(f"{len(molecules)} of {total} molecules can be used{why}; the splits need at least 10")


def _report_unlabelled(molecules: Molecules) -> None:
    counts = {name: int(values.isnan().sum()) for name, values in molecules.properties.items()}
    lacking = ", ".join(f"{count:,} have no {name}" for name, count in counts.items() if count)
    if lacking:
        rank_zero_info(f"Of {len(molecules):,} molecules {lacking}; they are kept, with NaN as value.")


@lru_cache
def atomic_number(symbol: str) -> int:
    """Atomic number of an element.

    Raises:
        ValueError: If the element does not exist.
    """
    with rdBase.BlockLogs():
        try:
            return Chem.GetPeriodicTable().GetAtomicNumber(symbol)
        except RuntimeError as error:
            raise ValueError(f"{symbol!r} is not an element; expected symbols such as H, C, N, O, F") from error
