"""Generated molecules as files that chemists' programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from tag_lightning.chemistry import molecule, perceived, write_sdf
from tag_lightning.files import replacing


def write_molecules(
    numbers: Tensor, positions: Tensor, fields: Sequence[Mapping[str, float]], folder: Path, name: str
) -> list[Path]:
    """Write ``<name>.sdf`` with bonds from distances, ``<name>-perceived.sdf`` with RDKit's, and ``<name>.npz``.

    Molecules with a position that is not finite are left out of both SD files, those that RDKit cannot read out of
    the second; their numbers are printed. The array file has all molecules: ``numbers`` and ``positions``.

    Args:
        numbers: Atomic numbers ``[B, N]``, 0 is padding.
        positions: Angstrom, ``[B, N, 3]``.
        fields: Data fields of each molecule.
        folder: The folder, created if it does not exist.
        name: Start of the file names.

    Returns:
        Paths of the three files.
    """
    finite = [i for i in range(len(numbers)) if bool(positions[i][numbers[i] > 0].isfinite().all())]
    read = {i: mol for i in finite if (mol := perceived(numbers[i], positions[i])) is not None}
    paths = [folder / f"{name}.sdf", folder / f"{name}-perceived.sdf", folder / f"{name}.npz"]
    numbered = [{"sample": float(i)} | _finite(fields[i]) for i in range(len(numbers))]
    write_sdf(paths[0], [molecule(numbers[i], positions[i]) for i in finite], [numbered[i] for i in finite])
    write_sdf(paths[1], list(read.values()), [numbered[i] for i in read])
    with replacing(paths[2]) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, numbers=numbers.numpy(), positions=positions.numpy())
    print(
        f"{len(numbers)} molecules: {len(numbers) - len(finite)} with positions that are not finite, "
        f"{len(finite) - len(read)} that RDKit cannot read"
    )
    return paths


def _finite(fields: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in fields.items() if np.isfinite(value)}
