"""Small molecules by hand, from bond lengths and angles of textbooks."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from rdkit import Chem
from torch import Tensor

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "qm9_xtb.zip"

H, C, N, O, F = 1, 6, 7, 8, 9  # noqa: E741


def _tetrahedral(length: float) -> list[tuple[float, float, float]]:
    a = length / math.sqrt(3)
    return [(a, a, a), (a, -a, -a), (-a, a, -a), (-a, -a, a)]


def _ring(radius: float) -> list[tuple[float, float, float]]:
    return [(radius * math.cos(k * math.pi / 3), radius * math.sin(k * math.pi / 3), 0.0) for k in range(6)]


# By name: atomic numbers, positions in angstrom, bonds as (atom, atom, order), SMILES without hydrogens.
Geometry = tuple[list[int], list[tuple[float, float, float]], list[tuple[int, int, int]], str]

GEOMETRIES: dict[str, Geometry] = {
    "hydrogen": ([H, H], [(0, 0, 0), (0, 0, 0.74)], [(0, 1, 1)], "[H][H]"),
    "hydrogen fluoride": ([H, F], [(0, 0, 0), (0, 0, 0.92)], [(0, 1, 1)], "F"),
    "water": (
        [O, H, H],
        [(0, 0, 0.1173), (0, 0.7572, -0.4692), (0, -0.7572, -0.4692)],
        [(0, 1, 1), (0, 2, 1)],
        "O",
    ),
    "methane": ([C, H, H, H, H], [(0, 0, 0), *_tetrahedral(1.089)], [(0, k, 1) for k in range(1, 5)], "C"),
    "ethene": (
        [C, C, H, H, H, H],
        [
            (0, 0, 0.667),
            (0, 0, -0.667),
            (0, 0.923, 1.238),
            (0, -0.923, 1.238),
            (0, 0.923, -1.238),
            (0, -0.923, -1.238),
        ],
        [(0, 1, 2), (0, 2, 1), (0, 3, 1), (1, 4, 1), (1, 5, 1)],
        "C=C",
    ),
    "ethyne": (
        [C, C, H, H],
        [(0, 0, 0.601), (0, 0, -0.601), (0, 0, 1.663), (0, 0, -1.663)],
        [(0, 1, 3), (0, 2, 1), (1, 3, 1)],
        "C#C",
    ),
    "hydrogen cyanide": ([H, C, N], [(0, 0, -1.064), (0, 0, 0), (0, 0, 1.156)], [(0, 1, 1), (1, 2, 3)], "C#N"),
    "nitrogen": ([N, N], [(0, 0, 0), (0, 0, 1.098)], [(0, 1, 3)], "N#N"),
    "formaldehyde": (
        [C, O, H, H],
        [(0, 0, 0), (0, 0, 1.205), (0, 0.938, -0.588), (0, -0.938, -0.588)],
        [(0, 1, 2), (0, 2, 1), (0, 3, 1)],
        "C=O",
    ),
    "carbon dioxide": ([C, O, O], [(0, 0, 0), (0, 0, 1.162), (0, 0, -1.162)], [(0, 1, 2), (0, 2, 2)], "O=C=O"),
    "benzene": (
        [C] * 6 + [H] * 6,
        # Alternating bonds of 1.33 and 1.46 angstrom cannot be had on a regular ring, whose 1.395 reads as single.
        [*_ring(1.395), *_ring(2.482)],
        [(k, (k + 1) % 6, 1) for k in range(6)] + [(k, k + 6, 1) for k in range(6)],
        "C1CCCCC1",
    ),
}

STABLE = [name for name in GEOMETRIES if name != "benzene"]


def geometry(name: str) -> tuple[Tensor, Tensor]:
    """Numbers int64 ``[n]`` and positions float64 ``[n, 3]``."""
    numbers, positions, _, _ = GEOMETRIES[name]
    return torch.tensor(numbers), torch.tensor(positions, dtype=torch.float64)


def orders_of(name: str) -> Tensor:
    """Bond orders int64 ``[n, n]``."""
    numbers, _, bonds, _ = GEOMETRIES[name]
    orders = torch.zeros(len(numbers), len(numbers), dtype=torch.long)
    for first, second, order in bonds:
        orders[first, second] = orders[second, first] = order
    return orders


@lru_cache(maxsize=1)
def archive_records() -> tuple[list[str], list[dict[str, str]]]:
    """The records of the archive's SDF, and the rows of its table, in the same order."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        records = archive.read("qm9_xtb/gdb9.sdf").decode().split("$$$$\n")[:-1]
        header, *lines = archive.read("qm9_xtb/gdb9.sdf.csv").decode().splitlines()
    return records, [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def archive_molecules(count: int) -> Iterator[tuple[Chem.Mol, Tensor, Tensor, dict[str, str]]]:
    """Molecule, numbers, positions and labels, evenly spread over the archive."""
    records, rows = archive_records()
    for k in range(count):
        index = k * len(records) // count
        mol = Chem.MolFromMolBlock(records[index], removeHs=False)
        numbers = torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        yield mol, numbers, torch.tensor(mol.GetConformer().GetPositions()), rows[index]
