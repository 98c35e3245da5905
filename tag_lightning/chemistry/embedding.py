"""From structural formulas to geometries: ETKDGv3, then MMFF94."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rich.progress import track

_ITERATIONS = 2000
_SHOW_PROGRESS_ABOVE = 500
Item = TypeVar("Item")
Result = TypeVar("Result")


class EmbeddingError(ValueError):
    """A formula for which no geometry was found; the message says why, in few words."""


def embed(mol: Chem.Mol, seed: int = 0) -> Chem.Mol:
    """A copy with explicit hydrogens and one conformer: ETKDGv3 (Wang et al. 2020), relaxed by MMFF94.

    Args:
        mol: A sanitised molecule; a conformer it may have is not used.
        seed: Of the distance geometry; the same seed gives the same geometry.

    Raises:
        EmbeddingError: If no geometry is found, MMFF94 lacks parameters, or the relaxation does not converge.
    """
    full = Chem.AddHs(Chem.Mol(mol, confId=-2))
    full.RemoveAllConformers()
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    if rdDistGeom.EmbedMolecule(full, settings) != 0:
        raise EmbeddingError("no geometry found")
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(full):
        raise EmbeddingError("MMFF94 lacks parameters")
    if rdForceFieldHelpers.MMFFOptimizeMolecule(full, maxIters=_ITERATIONS) != 0:
        raise EmbeddingError("the relaxation did not converge")
    return full


def parse_smiles(smiles: str) -> Chem.Mol:
    """A sanitised molecule.

    Raises:
        EmbeddingError: If the text is no SMILES of a possible molecule.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        raise EmbeddingError("not a readable SMILES")
    return mol


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], description: str, workers: int
) -> Iterator[Result]:
    """``work`` on every item, results in order; threads, since RDKit lets go of the interpreter while it computes.

    Args:
        work: The job.
        items: What it is given.
        description: For the progress bar, which many items get.
        workers: Threads, at least 1.
    """
    with rdBase.BlockLogs(), ThreadPoolExecutor(workers) as pool:
        results: Iterable[Result] = pool.map(work, items)
        yield from track(results, description=description, total=len(items), disable=len(items) < _SHOW_PROGRESS_ABOVE)
