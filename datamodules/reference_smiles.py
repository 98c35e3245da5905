"""The SMILES of known molecules, perceived from geometries as those of generated ones are."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import rdkit
from tag_lightning.datamodules.molecule_store import Molecules, content_key, replacing
from torch import Tensor

from tag_lightning.chemistry import bonds, canonical_smiles, molecule, perception
from tag_lightning.chemistry.embedding import in_parallel


def reference_smiles(
    molecules: Molecules, folder: Path | None, name: str, workers: int | None = None
) -> frozenset[str]:
    """Distinct canonical SMILES of the geometries; those that the perception finds invalid have none.

    Novelty means little unless both sides are perceived alike: the same molecule has another SMILES where its
    bonds come from a file.

    Args:
        molecules: Of elements with bond lengths, see ``tag_lightning.chemistry.bonds``.
        folder: Where the SMILES are kept for the next run; None keeps them nowhere.
        name: Start of the file's name.
        workers: Threads; None is one for each core.

    Raises:
        ValueError: An element without bond lengths.
        OSError: The folder cannot be written.
    """
    rules = inspect.getsource(bonds) + inspect.getsource(perception)
    atoms = molecules.numbers.numpy().tobytes(), molecules.positions.numpy().tobytes()
    key = content_key(*atoms, str(list(molecules.numbers.shape)), rules, rdkit.__version__)
    path = None if folder is None else folder / f"{name}-smiles-{key[:16]}.txt"
    found = None if path is None else _read(path, key)
    if found is None:
        pairs = list(zip(molecules.numbers, molecules.positions, strict=True))
        perceived = in_parallel(_smiles, pairs, "Perceiving the known molecules", workers or os.cpu_count() or 1)
        found = frozenset(smiles for smiles in perceived if smiles is not None)
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in [f"{key} {len(found)}", *sorted(found)]))
    return found


def _smiles(pair: tuple[Tensor, Tensor]) -> str | None:
    return canonical_smiles(molecule(*pair))


def _read(path: Path, key: str) -> frozenset[str] | None:
    """What was written under this key; None if there is nothing, something else, or a file cut short."""
    try:
        first, *lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    # A whole file ends in a line break, hence the empty text after it.
    if first != f"{key} {len(lines) - 1}" or lines[-1]:
        return None
    return frozenset(lines[:-1])
