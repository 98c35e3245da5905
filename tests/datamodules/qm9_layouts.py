"""Small stand-ins for QM9, written in either of its layouts from one description."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tag_lightning.datamodules import QM9DataModule

NAMES = ["A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv"]


class Molecule(NamedTuple):
    """What both layouts are written from."""

    number: int
    symbols: list[str]
    positions: np.ndarray
    values: list[float]


def molecules(count: int = 40) -> list[Molecule]:
    """Molecules of 3 to 12 atoms, in the order of their numbers, which have gaps."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        size = int(rng.integers(3, 13))
        symbols = ["C", *rng.choice(["H", "C", "N", "O", "F"], size - 1)]
        found.append(
            Molecule(
                3 * k + 1, symbols, rng.normal(size=(size, 3)).round(4), (rng.normal(size=15) * 9).round(5).tolist()
            )
        )
    return found


def sdf_block(molecule: Molecule) -> str:
    atoms = [
        "".join(f"{x:10.4f}" for x in place) + f" {symbol:<3} 0  0  0  0  0  0  0  0  0  0  0  0"
        for symbol, place in zip(molecule.symbols, molecule.positions, strict=True)
    ]
    counts = f"{len(atoms):3d}{1:3d}  0  0  0  0  0  0  0  0999 V2000"
    return "\n".join([f"gdb_{molecule.number}", "  x", "", counts, *atoms, "  1  2  1  0", "M  END", "$$$$\n"])


def write_sdf(folder: Path, chosen: list[Molecule]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gdb9.sdf").write_text("".join(map(sdf_block, chosen)))
    rows = [",".join(["mol_id", *NAMES, "u0_atom"])]
    rows += [",".join([f"gdb_{m.number}", *map(str, m.values), "0.0"]) for m in chosen]
    (folder / "gdb9.sdf.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_xyz(folder: Path, chosen: list[Molecule]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for m in chosen:
        lines = [str(len(m.symbols)), "\t".join([f"gdb {m.number}", *map(str, m.values)])]
        for symbol, place in zip(m.symbols, m.positions, strict=True):
            lines.append("\t".join([symbol, *(f"{x * 1e3:.4f}*^-3" for x in place), "-0.1"]))
        lines += ["100.0\t200.0", "C\tC", "InChI=1S\tInChI=1S"]
        (folder / f"dsgdb9nsd_{m.number:06d}.xyz").write_text("\n".join(lines) + "\n")
    return folder


def module(root: Path, cache: Path | None = None, **arguments: object) -> QM9DataModule:
    return QM9DataModule(str(root), cache=None if cache is None else str(cache), **arguments)  # type: ignore[arg-type]
