"""SMILES and SD files of molecules."""

from __future__ import annotations

import csv
import inspect
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from rdkit import Chem

from tag_lightning.chemistry import read_sdf
from tag_lightning.datamodules.geometries import Recipe, Source, geometry_key, prepared_molecules
from tag_lightning.datamodules.molecule_store import Molecules, cached
from tag_lightning.datamodules.molecules import MoleculeDataModule

_MISSING = {"", "nan", "na", "n/a", "none", "null"}


class MoleculeFilesDataModule(MoleculeDataModule):
    """Molecules of a SMILES or SD file, split 80 / 10 / 10 %.

    A ``.smi`` or ``.txt`` file has one SMILES per line, optionally followed by a name; a ``.csv`` file, separated by
    commas, semicolons or tabs, has a column ``smiles``; an ``.sdf`` file has records. 3D geometries are kept, and
    missing hydrogens added at standard lengths and angles; other molecules are embedded by ETKDGv3 and relaxed by
    MMFF94. Unreadable molecules and those without a geometry are left out, counted in a warning and listed in
    ``<cache>/<file stem>-skipped.csv``. ``properties`` that are columns or fields of the file are taken from it, in
    its units.

    Args:
        path: Path of the file.
        physics: Compute ``mu`` (debye), ``alpha`` (bohr^3), ``homo``, ``lumo`` and ``gap`` (eV) by GFN2-xTB if the
            file does not have them; needs the package tblite.
        max_molecules: Read only the first ``max_molecules`` of the file; null reads all.
        **kwargs: Arguments of ``MoleculeDataModule``.

    Raises:
        ValueError: If ``max_molecules`` is below 1.
    """

    def __init__(
        self,
        path: str,
        physics: bool = False,
        max_molecules: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if max_molecules is not None and max_molecules < 1:
            raise ValueError(f"max_molecules must be at least 1, got {max_molecules}; null reads the whole file")
        self.path = Path(path)
        self.name = self.path.stem
        self.physics = physics
        self.max_molecules = max_molecules

    def load(self) -> Molecules:
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path} does not exist; give a .smi, .txt, .csv or .sdf file as data.init_args.path"
            )
        rules = inspect.getsource(inspect.getmodule(read_molecules))  # type: ignore[arg-type]
        content = f"{rules}\n{self.path.suffix}\n{self.max_molecules}\n".encode() + self.path.read_bytes()
        key = geometry_key(content, self._recipe())
        return cached(self.cache, self.name, key, self._build)

    def _recipe(self) -> Recipe:
        return Recipe(self.properties, self.physics, self.encoding.elements, self.max_atoms)

    def _build(self) -> Molecules:
        entries = list(islice(read_molecules(self.path, self.properties), self.max_molecules))
        if not entries:
            raise ValueError(f"{self.path} has no molecules; give a file with one SMILES per line, or SD records")
        sources = [entry for entry in entries if isinstance(entry, Source)]
        unreadable = tuple(entry for entry in entries if not isinstance(entry, Source))
        molecules = prepared_molecules(sources, self._recipe())
        names = [smiles for smiles in molecules.smiles if smiles]
        repeated = len(names) - len(set(names))
        if repeated:
            rank_zero_info(f"{repeated} of {len(names)} molecules of {self.path} repeat an earlier one; they are kept.")
        return molecules.with_skipped(unreadable)


def read_molecules(path: Path, properties: Sequence[str]) -> Iterator[Source | tuple[str, str]]:
    """Yield every molecule of a file with its labels, or ``(name, reason)`` if it is unreadable.

    Args:
        path: A ``.smi``, ``.txt``, ``.csv`` or ``.sdf`` file.
        properties: Names of the labels to read if the file has them.

    Raises:
        ValueError: If the file is of another kind, a table lacks SMILES, repeats a column or has a truncated row, or
            a property is not a number; names the line.
    """
    readers = {".smi": _lines, ".txt": _lines, ".csv": _rows, ".sdf": _records}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is of an unknown kind; expected a name that ends in {', '.join(readers)}")
    try:
        yield from readers[path.suffix.lower()](path, properties)
    except csv.Error as error:
        raise ValueError(f"{path} is not a readable table: {error} (a quote that is not closed?); repair it") from error


def _lines(path: Path, properties: Sequence[str]) -> Iterator[Source | tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if words and not (number == 1 and words[0].lower() == "smiles"):
                yield Source(f"line {number}: {words[0]}", words[0], {})


def _rows(path: Path, properties: Sequence[str]) -> Iterator[Source | tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
        header = [name.strip() for name in next(reader, [])]
        lower = [name.lower() for name in header]
        if "smiles" not in lower:
            raise ValueError(f"{path} has no column 'smiles' in its first line, only {', '.join(header) or '(none)'}")
        repeated = [name for name in properties if header.count(name) > 1] + ["smiles"] * (lower.count("smiles") > 1)
        if repeated:
            raise ValueError(f"{path} has several columns {repeated[0]!r}; rename or remove all but one")
        labels = {name: header.index(name) for name in properties if name in header}
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{where}: {len(cells)} cells under {len(header)} columns; the line is truncated, or a comma "
                    "lacks its quotes: repair the line"
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
