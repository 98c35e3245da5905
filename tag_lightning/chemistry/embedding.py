"""Geometries of structural formulas: ETKDGv3, then MMFF94."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from tag_lightning.interruption import interruption
from tag_lightning.progress import tracked

_ITERATIONS = 2000
# Formulas that embed at all take far less; chains of hundreds of carbons would take minutes.
_SECONDS = 10
# An iteration looks at every pair of atoms. These take some seconds; molecules of up to 100 atoms are relaxed at once.
_PAIRS_AT_ONCE = 20_000_000
_POLL_SECONDS = 0.1
_LOOKS = 3
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
        EmbeddingError: If no geometry is found or the relaxation does not end within 10 seconds, or MMFF94 lacks
            parameters. RDKit looks at the clock between steps, which take seconds for hundreds of atoms.
        KeyboardInterrupt: At Ctrl-C. RDKit loses one that comes within the first tenths of a second.
    """
    full = Chem.AddHs(Chem.Mol(mol, confId=-2))
    full.RemoveAllConformers()
    started = time.monotonic()
    if not _found_geometry(full, seed):
        late = time.monotonic() - started >= _SECONDS
        raise EmbeddingError(f"no geometry found within {_SECONDS} s" if late else "no geometry found")
    _relax(full, started + _SECONDS)
    return full


def _found_geometry(mol: Chem.Mol, seed: int) -> bool:
    """Give the molecule a conformer by distance geometry; return whether there is one."""
    found, attempts, given_up = _distance_geometry(mol, seed)
    # RDKit catches Ctrl-C itself and reports a failure, after fewer attempts than a failure of its own unless that
    # lies in the formula, before the first. Threads share what it catches, so that a look may be interrupted as well.
    if not found and not given_up and (attempts or any(_begins(mol, seed) for _ in range(_LOOKS))):
        _thread.interrupt_main(signal.SIGINT)
        raise KeyboardInterrupt
    return found


def _begins(mol: Chem.Mol, seed: int) -> bool:
    found, attempts, _ = _distance_geometry(mol, seed, limit=1)
    return found or attempts > 0


def _distance_geometry(mol: Chem.Mol, seed: int, limit: int = 0) -> tuple[bool, int, bool]:
    """Return whether a geometry was found, the number of failed attempts, and whether those were all it may take.

    Args:
        mol: Gains a conformer.
        seed: Seed of the first attempt.
        limit: Number of attempts; 0 is RDKit's choice.
    """
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    settings.timeout = _SECONDS
    settings.maxIterations = limit
    settings.trackFailures = True
    found = rdDistGeom.EmbedMolecule(mol, settings) == 0
    causes = list(settings.GetFailureCounts())
    late = causes[int(rdDistGeom.EmbedFailureCauses.EXCEEDED_TIMEOUT)] > 0
    return found, sum(causes), late or sum(causes) >= settings.maxIterations


def _relax(mol: Chem.Mol, deadline: float) -> None:
    """Relax the conformer by MMFF94 until that reading of the monotonic clock."""
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        raise EmbeddingError("MMFF94 lacks parameters")
    field: Any = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, rdForceFieldHelpers.MMFFGetMoleculeProperties(mol))
    field.Initialize()
    at_once = max(1, _PAIRS_AT_ONCE // mol.GetNumAtoms() ** 2)
    for begun in range(0, _ITERATIONS, at_once):
        if field.Minimize(maxIts=min(at_once, _ITERATIONS - begun)) == 0:
            return
        if time.monotonic() > deadline:
            raise EmbeddingError(f"the relaxation did not converge within {_SECONDS} s")
    raise EmbeddingError("the relaxation did not converge")


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
    with rdBase.BlockLogs():
        pool = ThreadPoolExecutor(workers)
        running = [pool.submit(work, item) for item in items]
        try:
            yield from tracked(map(_awaited, running), description, "molecule", len(items))
        finally:
            # All are done, or their results are not wanted any more.
            pool.shutdown(wait=False, cancel_futures=True)
            interruption.abandoned = [each for each in running if not each.done()]
            _take_back_ctrl_c()


def _awaited(work: Future[Result]) -> Result:
    while True:
        _take_back_ctrl_c()
        try:
            return work.result(timeout=_POLL_SECONDS)
        except TimeoutError:
            if work.done():
                raise


def _take_back_ctrl_c() -> None:
    """Put Python's handler back: RDKit replaces it in every thread, and of several at a time none gives it back."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
