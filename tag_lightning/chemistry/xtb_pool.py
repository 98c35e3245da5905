"""GFN2-xTB for many molecules, in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext

import numpy as np
import torch
from numpy.typing import ArrayLike

from tag_lightning.chemistry.xtb import CHEAP_PROPERTIES, XTBError, check_request, xtb_properties
from tag_lightning.progress import Progress

Molecule = tuple[np.ndarray, np.ndarray]


def xtb_many(
    molecules: Sequence[tuple[ArrayLike, ArrayLike]],
    workers: int = 1,
    names: Collection[str] = CHEAP_PROPERTIES,
    progress: bool = True,
) -> list[dict[str, float] | None]:
    """``xtb_properties`` of each molecule.

    Each molecule is computed on one thread, so the results do not depend on the number of workers. A molecule that
    crashes its process affects no other. A script that calls this needs the guard ``if __name__ == "__main__":``,
    since the worker processes import it.

    Args:
        molecules: Pairs of atomic numbers ``[n]`` and positions ``[n, 3]`` in angstrom; CPU tensors or arrays.
        workers: Number of processes, at least 1; each takes seconds to start.
        names: Names from ``XTB_PROPERTIES``.
        progress: Show the progress; False inside another progress bar.

    Returns:
        The properties in the order of ``molecules``, None for failed calculations.

    Raises:
        ImportError: If tblite is not installed.
        RuntimeError: If the processes cannot be started.
        ValueError: If ``workers`` is below 1, or a name or shape does not match.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1. Give the number of CPU cores to use.")
    check_request(names)
    arrays = [(np.asarray(numbers), np.asarray(positions)) for numbers, positions in molecules]
    results: list[dict[str, float] | None] = [None] * len(arrays)
    bar = Progress("GFN2-xTB", len(arrays), "molecule", progress, always=False)

    def keep(index: int, properties: dict[str, float] | None) -> None:
        results[index] = properties
        bar.advance(1)

    todo = list(range(len(arrays)))
    while todo:
        lost = _calculate(arrays, todo, min(workers, len(todo)), names, keep)
        # Molecules start in order, so the one that broke the pool is among the first that were lost.
        suspects, todo = lost[: 2 * workers + 1], lost[2 * workers + 1 :]
        for index in suspects:
            if _calculate(arrays, [index], 1, names, keep):
                keep(index, None)
    bar.close()
    return results


def _calculate(
    molecules: Sequence[Molecule],
    indices: Sequence[int],
    workers: int,
    names: Collection[str],
    keep: Callable[[int, dict[str, float] | None], None],
) -> list[int]:
    """Pass the results of ``indices`` to ``keep``; return those lost to a crashed process."""
    lost: list[int] = []
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_use_one_thread)
    try:
        _require_start(pool)
        futures = {pool.submit(_properties_or_none, *molecules[i], tuple(names)): i for i in indices}
        for future in as_completed(futures):
            try:
                keep(futures[future], future.result())
            except BrokenProcessPool:
                lost.append(futures[future])
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(lost)


def _context() -> BaseContext:
    """Processes that share no thread with this one, and load our libraries once where the system can fork."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _require_start(pool: ProcessPoolExecutor) -> None:
    try:
        pool.submit(_started).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "The worker processes of GFN2-xTB died at their start; they must be able to import the calling script. "
            'Put its last part under: if __name__ == "__main__":'
        ) from error


def _started() -> None:
    """Return as soon as a process runs."""


def _use_one_thread() -> None:
    # tblite reads the variables when it is loaded, later; if it shares torch's OpenMP, torch sets the number.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _properties_or_none(numbers: np.ndarray, positions: np.ndarray, names: Collection[str]) -> dict[str, float] | None:
    try:
        return xtb_properties(numbers, positions, names)
    except XTBError:
        return None
