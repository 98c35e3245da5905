"""SMILES of known molecules, perceived from geometries like those of generated molecules."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import rdkit
from torch import Tensor

from tag_lightning.chemistry import bonds, canonical_smiles, molecule, perception
from tag_lightning.chemistry.embedding import in_parallel
from tag_lightning.content_digest import content_key
from tag_lightning.datamodules.molecule_store import CACHE_REMEDY, Molecules
from tag_lightning.files import replacing_in_cache


def reference_smiles(
    molecules: Molecules, folder: Path | None, name: str, workers: int | None = None
) -> frozenset[str]:
    """Distinct canonical SMILES of the geometries, without those whose perceived bonds are invalid.

    Both sides of a novelty count must be perceived alike: the bonds in a file can give another SMILES for the same
    molecule.

    Args:
        molecules: Molecules of elements with bond lengths, see ``tag_lightning.chemistry.bonds``.
        folder: Cache folder; None does not cache.
        name: Prefix of the file name.
        workers: Number of threads; None is one per core.

    Raises:
        ValueError: If an element has no bond lengths.
        OSError: If the folder cannot be written.
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
            with replacing_in_cache(path, CACHE_REMEDY) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in [f"{key} {len(found)}", *sorted(found)]))
    return found


def _smiles(pair: tuple[Tensor, Tensor]) -> str | None:
    return canonical_smiles(molecule(*pair))


def _read(path: Path, key: str) -> frozenset[str] | None:
    """Read the SMILES written under ``key``; None if the file is missing, truncated or has another key."""
    try:
        first, *lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    # A complete file ends in a line break, hence the empty last line.
    if first != f"{key} {len(lines) - 1}" or lines[-1]:
        return None
    return frozenset(lines[:-1])
