"""Geometries of structural formulas: ETKDGv3, then MMFF94."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from tag_lightning.progress import tracked

_ITERATIONS = 2000
# Formulas that embed at all take far less; chains of hundreds of carbons would take minutes.
_SECONDS = 30
Item = TypeVar("Item")
Result = TypeVar("Result")


class EmbeddingError(ValueError):
    """No geometry was found for a formula; the message is a short reason."""


def embed(mol: Chem.Mol, seed: int = 0) -> Chem.Mol:
    """Embed a copy with explicit hydrogens by ETKDGv3 (Wang et al. 2020) and relax it by MMFF94.

    Args:
        mol: A sanitised molecule; its own conformers are ignored.
        seed: Seed of the distance geometry.

    Raises:
        EmbeddingError: If no geometry is found within 30 seconds, MMFF94 lacks parameters, or the relaxation does
            not converge.
    """
    full = Chem.AddHs(Chem.Mol(mol, confId=-2))
    full.RemoveAllConformers()
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    settings.timeout = _SECONDS
    started = time.monotonic()
    if rdDistGeom.EmbedMolecule(full, settings) != 0:
        late = time.monotonic() - started >= _SECONDS
        raise EmbeddingError(f"no geometry found within {_SECONDS} s" if late else "no geometry found")
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(full):
        raise EmbeddingError("MMFF94 lacks parameters")
    if rdForceFieldHelpers.MMFFOptimizeMolecule(full, maxIters=_ITERATIONS) != 0:
        raise EmbeddingError("the relaxation did not converge")
    return full


def parse_smiles(smiles: str) -> Chem.Mol:
    """Parse and sanitise a molecule.

    Raises:
        EmbeddingError: If the text is not the SMILES of a valid molecule.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        raise EmbeddingError("not a readable SMILES")
    return mol


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], description: str, workers: int
) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in order, computed by threads: RDKit releases the interpreter lock.

    Args:
        work: Function of one item.
        items: Its arguments.
        description: Text of the progress bar.
        workers: Number of threads, at least 1.
    """
    with rdBase.BlockLogs(), ThreadPoolExecutor(workers) as pool:
        yield from tracked(pool.map(work, items), description, "molecule", len(items))
