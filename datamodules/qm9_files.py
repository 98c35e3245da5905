"""QM9 in the two layouts it is distributed in (Ramakrishnan et al. 2014, doi 10.1038/sdata.2014.22)."""

from __future__ import annotations

import csv
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tag_lightning.chemistry.units import HARTREE_IN_EV, HARTREE_IN_MEV
from tag_lightning.datamodules.molecule_store import Molecules
from tag_lightning.datamodules.molecules import atomic_number
from tag_lightning.progress import tracked

MOLECULES = 133_885
UNCHARACTERIZED = 3_054
ARCHIVE = "dsgdb9nsd.xyz.tar.bz2"
UNCHARACTERIZED_FILE = "uncharacterized.txt"

# In the order of the xyz files, with the factor from the file's unit to ours.
_FACTORS = dict.fromkeys(("A", "B", "C", "mu", "alpha"), 1.0)
_FACTORS |= {"homo": HARTREE_IN_EV, "lumo": HARTREE_IN_EV, "gap": HARTREE_IN_EV, "r2": 1.0, "zpve": HARTREE_IN_MEV}
_FACTORS |= dict.fromkeys(("u0", "u298", "h298", "g298"), HARTREE_IN_EV) | {"cv": 1.0}
_XYZ_NAME = re.compile(r"dsgdb9nsd_(\d+)\.xyz")


class Record(NamedTuple):
    """One molecule of a QM9 file.

    Attributes:
        identity: QM9's index, counted from 1.
        numbers: Atomic numbers ``[n]``.
        positions: Positions in angstrom, ``[n, 3]``.
        values: The 15 properties in the file's units, NaN if missing.
    """

    identity: int
    numbers: list[int]
    positions: Sequence[tuple[float, float, float]]
    values: list[float]


class Layout(ABC):
    """The files of one copy of QM9.

    Attributes:
        files: Paths of all files that are read.
        count: Expected number of molecules, for the progress bar.
    """

    files: list[Path]
    count: int

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield every molecule, in any order.

        Raises:
            ValueError: If a file is truncated, malformed or does not match the others; names it and the row.
        """


class SDFLayout(Layout):
    """``gdb9.sdf`` with ``gdb9.sdf.csv``.

    Args:
        folder: Folder of both files.

    Raises:
        FileNotFoundError: If the table is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.sdf, self.table = self.files = [folder / "gdb9.sdf", folder / "gdb9.sdf.csv"]
        if not self.table.is_file():
            raise FileNotFoundError(f"{self.sdf} lacks its table {self.table}; unpack both into one folder")
        with self.table.open("rb") as file:
            self.count = sum(1 for _ in file) - 1

    def records(self) -> Iterator[Record]:
        blocks = self._blocks()
        for row, (index, values) in enumerate(self._rows(), 1):
            block = next(blocks, None)
            if block is None:
                raise ValueError(
                    f"{self.sdf} ends after {row - 1} molecules, but {self.table} has a row {row} (gdb_{index}); one "
                    "of them is truncated or from another release: unpack both again"
                )
            yield self._record(block, row, index, values)
        extra = next(blocks, None)
        if extra is not None:
            raise ValueError(
                f"{self.table} ends after {row} rows, but {self.sdf} continues with {extra.split(chr(10), 1)[0]!r}; "
                "one of them is truncated or from another release: unpack both again"
            )

    def _record(self, block: str, row: int, index: int, values: list[float]) -> Record:
        where = f"{self.sdf}, molecule {row}"
        lines = block.split("\n")
        if lines[0].strip() != f"gdb_{index}":
            raise ValueError(
                f"{where} is called {lines[0].strip()!r}, but row {row} of {self.table} is 'gdb_{index}'; the "
                "files must list the same molecules in the same order: unpack both again"
            )
        try:
            atoms, bonds = int(lines[3][:3]), int(lines[3][3:6])
            if not lines[4 + atoms + bonds].startswith("M  "):
                raise ValueError(f"the counts line gives {atoms} atoms and {bonds} bonds, unlike the other lines")
            body = lines[4 : 4 + atoms]
            numbers = [atomic_number(line[31:34].strip()) for line in body]
            positions = [(float(line[:10]), float(line[10:20]), float(line[20:30])) for line in body]
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"cannot read {where} (gdb_{index}): {error}; expected a V2000 block, unpack again"
            ) from error
        return Record(index, numbers, positions, values)

    def _blocks(self) -> Iterator[str]:
        rest = ""
        with self.sdf.open(encoding="utf-8", errors="replace") as file:
            while chunk := file.read(1 << 20):
                *whole, rest = (rest + chunk).split("$$$$\n")
                yield from whole
        if rest.strip() and rest.rstrip().endswith("$$$$"):
            yield rest
        elif rest.strip():
            title = rest.split("\n", 1)[0].strip()
            raise ValueError(f"{self.sdf} ends within the molecule {title!r}, without $$$$; unpack or copy it again")

    def _rows(self) -> Iterator[tuple[int, list[float]]]:
        with self.table.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [name for name in ("mol_id", *_FACTORS) if name not in header]
            if missing:
                raise ValueError(
                    f"{self.table} has no column {missing[0]!r} in its first line; expected mol_id, "
                    f"{', '.join(_FACTORS)}: unpack it again"
                )
            identity, columns = header.index("mol_id"), [header.index(name) for name in _FACTORS]
            for row, cells in enumerate(reader, 1):
                where = f"{self.table}, row {row}"
                if len(cells) != len(header):
                    raise ValueError(
                        f"{where}: {len(cells)} cells under {len(header)} columns; the table is truncated or "
                        "damaged, unpack it again"
                    )
                name = re.fullmatch(r"gdb_(\d+)", cells[identity].strip())
                if name is None:
                    raise ValueError(f"{where}: mol_id is {cells[identity]!r}; expected gdb_ and a number")
                yield int(name[1]), [_number(cells[column], where) for column in columns]


class XYZLayout(Layout):
    """A folder of ``dsgdb9nsd_NNNNNN.xyz``.

    Args:
        files: Paths of the xyz files.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.count = len(files)

    def records(self) -> Iterator[Record]:
        for path in self.files:
            yield read_xyz(path.read_text(encoding="utf-8", errors="replace"), path.name, str(path))


class ArchiveLayout(Layout):
    """The same xyz files in the authors' archive, read without unpacking.

    Args:
        path: Path of the archive.
    """

    def __init__(self, path: Path) -> None:
        self.files = [path]
        self.count = MOLECULES

    def records(self) -> Iterator[Record]:
        (path,) = self.files
        try:
            with tarfile.open(path, "r|bz2") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.name.endswith(".xyz") else None
                    if file is not None:
                        text = file.read().decode("utf-8", errors="replace")
                        yield read_xyz(text, Path(member.name).name, f"{path}, {member.name}")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(
                f"cannot read the archive {path} ({error}); it is truncated or damaged: remove it and set "
                "data.init_args.download=true"
            ) from error


def find_layout(root: Path) -> Layout | None:
    """Find the copy of QM9 in ``root`` or its subfolders; None if there is no copy."""
    for folder in [root, *sorted(path for path in root.glob("*") if path.is_dir())]:
        if (folder / "gdb9.sdf").is_file():
            return SDFLayout(folder)
        files = sorted(path for path in folder.glob("dsgdb9nsd_*.xyz") if _XYZ_NAME.fullmatch(path.name))
        if files:
            return XYZLayout(files)
        if (folder / ARCHIVE).is_file():
            return ArchiveLayout(folder / ARCHIVE)
    return None


def read_layout(layout: Layout, removed: frozenset[int]) -> Molecules:
    """Read all molecules but the removed ones, in the order of QM9's indices, in our units.

    Energies and ``cv`` are those of the file, whereas EDM subtracts atomic references.

    Args:
        layout: The files, see ``find_layout``.
        removed: QM9's indices of the uncharacterised molecules.

    Raises:
        ValueError: As ``Layout.records``; or if an index occurs twice, or the list of the uncharacterised
            molecules is truncated.
    """
    records: dict[int, Record] = {}
    for record in tracked(layout.records(), "Reading QM9", "molecule", layout.count):
        if record.identity in records:
            raise ValueError(
                f"{layout.files[0].parent} has gdb_{record.identity} twice; unpack QM9 into an empty folder"
            )
        records[record.identity] = record
    if len(records) == MOLECULES and removed and len(removed) != UNCHARACTERIZED:
        raise ValueError(
            f"{UNCHARACTERIZED_FILE} in {layout.files[0].parent} lists {len(removed)} molecules, expected "
            f"{UNCHARACTERIZED:,}; it is truncated or another file: copy it again"
        )
    kept = [records[index] for index in sorted(records.keys() - removed)]
    return Molecules.packed(
        [(np.array(record.numbers), np.array(record.positions)) for record in kept],
        {name: [record.values[k] * f for record in kept] for k, (name, f) in enumerate(_FACTORS.items())},
        [""] * len(kept),
        identities=[record.identity for record in kept],
    )


def read_xyz(text: str, name: str, where: str) -> Record:
    """Parse one molecule of QM9's extended xyz.

    Args:
        text: Content of the file.
        name: Name of the file, ``dsgdb9nsd_NNNNNN.xyz``; its number must be the molecule's.
        where: Name of the file in errors.

    Raises:
        ValueError: If the text is truncated or malformed.
    """
    lines = text.splitlines()
    try:
        atoms, words = int(lines[0]), lines[1].split()
        if len(lines) < atoms + 5:
            raise ValueError(f"{len(lines)} lines for {atoms} atoms, expected {atoms + 5}")
        if words[0] != "gdb" or len(words) != 2 + len(_FACTORS):
            raise ValueError(f"its second line has {len(words)} words, expected gdb, a number, {len(_FACTORS)} values")
        number = _XYZ_NAME.fullmatch(name)
        if number is None or int(number[1]) != int(words[1]):
            raise ValueError(f"it holds gdb_{words[1]}")
        body = [line.split() for line in lines[2 : 2 + atoms]]
        return Record(
            int(words[1]),
            [atomic_number(line[0]) for line in body],
            [(_float(line[1]), _float(line[2]), _float(line[3])) for line in body],
            [_float(word) for word in words[2:]],
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"cannot read {where}: {error}; it is truncated or not a QM9 file, unpack it again") from error


def _float(word: str) -> float:
    # Some exponents are in Mathematica's notation.
    return float(word.replace("*^", "e"))


def _number(cell: str, where: str) -> float:
    if not cell.strip():
        return float("nan")
    try:
        return float(cell)
    except ValueError as error:
        raise ValueError(f"{where}: {cell!r} is not a number; the table is damaged, unpack it again") from error
