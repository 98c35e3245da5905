"""Any file of molecules."""

from __future__ import annotations

import csv
import inspect
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info
from rdkit import Chem
from tag_lightning.datamodules.geometries import Source, geometry_key, prepared_molecules
from tag_lightning.datamodules.molecule_store import Molecules, cached
from tag_lightning.datamodules.molecules import QM9_ELEMENTS, MoleculeDataModule

from tag_lightning.chemistry import read_sdf

_MISSING = {"", "nan", "na", "n/a", "none", "null"}


class MoleculeFilesDataModule(MoleculeDataModule):
    """Molecules of a SMILES or SD file, 80 / 10 / 10 % train, validate and test.

    A ``.smi`` or ``.txt`` file has one SMILES a line, with or without a name after it; a ``.csv`` file a column
    ``smiles``; an ``.sdf`` file records. Geometries in space are kept, hydrogens they lack added at the usual
    lengths and angles; other molecules get ETKDGv3's relaxed by MMFF94. What cannot be read or embedded is left
    out, counted in a warning and listed in ``<cache>/<name of the file>-skipped.csv``.

    Args:
        path: The file.
        properties: Columns or fields of the file, in its units; other names are computed, by RDKit:
            ``alpha`` (bohr^3), ``mu`` (debye), or a descriptor by its name.
        physics: Compute ``mu`` (debye), ``alpha`` (bohr^3), ``homo``, ``lumo`` and ``gap`` (eV) by GFN2-xTB where
            the file has no such column; needs the package tblite.
        max_molecules: Take the first so many of the file; null takes all.
        cache: Folder for the prepared molecules; null prepares them anew in every run.
        elements: Symbols, in the order of the one-hot columns; molecules with others are left out.
        max_atoms: Larger molecules are left out; null keeps all.
        batch_size: Molecules a batch and process.
        num_workers: Processes that prepare batches; 0 is fastest, since the molecules sit in memory.
        seed: Seed of the training order. The splits do not depend on it.
        half: Train on one half of the training molecules only, so that a guide and a judge share none.
    """

    def __init__(
        self,
        path: str,
        properties: Sequence[str] = ("alpha", "mu"),
        physics: bool = False,
        max_molecules: int | None = None,
        cache: str | None = "data/molecules",
        elements: Sequence[str] = QM9_ELEMENTS,
        max_atoms: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        half: Literal["first", "second"] | None = None,
    ) -> None:
        super().__init__(properties, elements, max_atoms, batch_size, num_workers, seed, half, cache)
        if max_molecules is not None and max_molecules < 1:
            raise ValueError(f"max_molecules must be at least 1, got {max_molecules}; null takes all of the file")
        self.path = Path(path)
        self.name = self.path.stem
        self.physics = physics
        self.max_molecules = max_molecules

    def load(self) -> Molecules:
        if not self.path.is_file():
            raise FileNotFoundError(
                f"there is no file {self.path}; give a .smi, .txt, .csv or .sdf file as data.init_args.path"
            )
        rules = inspect.getsource(inspect.getmodule(read_molecules))  # type: ignore[arg-type]
        content = f"{rules}\n{self.path.suffix}\n{self.max_molecules}\n".encode() + self.path.read_bytes()
        key = geometry_key(content, self.properties, self.physics)
        return cached(self.cache, self.name, key, self._build)

    def _build(self) -> Molecules:
        entries = list(islice(read_molecules(self.path, self.properties), self.max_molecules))
        if not entries:
            raise ValueError(f"{self.path} has no molecules; give a file with one SMILES a line, or SD records")
        sources = [entry for entry in entries if isinstance(entry, Source)]
        unreadable = tuple(entry for entry in entries if not isinstance(entry, Source))
        molecules = prepared_molecules(sources, self.properties, self.physics)
        repeated = len(molecules) - len(set(molecules.smiles))
        if repeated:
            rank_zero_info(f"{repeated} of the molecules of {self.path} occur there before; they are kept.")
        return molecules.with_skipped(unreadable)


def read_molecules(path: Path, properties: Sequence[str]) -> Iterator[Source | tuple[str, str]]:
    """Every molecule of a file with those of ``properties`` that the file has; ``(name, reason)`` if unreadable.

    Raises:
        ValueError: A file of another kind, a table without SMILES or with a row cut short, or a property that is
            no number; names the line.
    """
    readers = {".smi": _lines, ".txt": _lines, ".csv": _rows, ".sdf": _records}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is of no known kind; expected a name that ends in {', '.join(readers)}")
    return readers[path.suffix.lower()](path, properties)


def _lines(path: Path, properties: Sequence[str]) -> Iterator[Source | tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if words and not (number == 1 and words[0].lower() == "smiles"):
                yield Source(f"line {number}: {words[0]}", words[0], {})


def _rows(path: Path, properties: Sequence[str]) -> Iterator[Source | tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        lower = [name.lower() for name in header]
        if "smiles" not in lower:
            raise ValueError(f"{path} has no column 'smiles' in its first line, only {', '.join(header) or '(none)'}")
        labels = {name: header.index(name) for name in properties if name in header}
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{where}: {len(cells)} cells under {len(header)} columns; it is cut short or a comma lacks its "
                    "quotes: repair the line"
                )
            smiles = cells[lower.index("smiles")].strip()
            values = {name: _value(cells[column], name, where) for name, column in labels.items()}
            yield Source(f"line {reader.line_num}: {smiles}", smiles, values)


def _records(path: Path, properties: Sequence[str]) -> Iterator[Source | tuple[str, str]]:
    for index, mol, reason in read_sdf(path):
        if mol is None:
            yield f"record {index + 1}", reason
            continue
        title = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
        name = f"record {index + 1}: {title}".rstrip(": ")
        yield Source(name, mol, _fields(mol, properties, f"{path}, {name}"))


def _fields(mol: Chem.Mol, properties: Sequence[str], where: str) -> dict[str, float]:
    return {name: _value(mol.GetProp(name), name, where) for name in properties if mol.HasProp(name)}


def _value(text: str, name: str, where: str) -> float:
    if text.strip().lower() in _MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{where}: {name} is {text!r}, expected a number; repair it, or leave the cell empty to leave the molecule "
            "out"
        ) from error
