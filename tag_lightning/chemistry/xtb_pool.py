"""GFN2-xTB for many molecules, in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import Progress

from tag_lightning.chemistry.xtb import CHEAP_PROPERTIES, XTBError, check_request, xtb_properties

# Below it a bar would be gone before it is read.
_BAR_FROM = 50

Molecule = tuple[np.ndarray, np.ndarray]


def xtb_many(
    molecules: Sequence[tuple[ArrayLike, ArrayLike]],
    workers: int = 1,
    what: Collection[str] = CHEAP_PROPERTIES,
    progress: bool = True,
) -> list[dict[str, float] | None]:
    """``xtb_properties`` of each molecule, with a progress bar for more than 50 of them.

    Each molecule is calculated by itself on one thread, so the results are the same for any number of workers. A
    molecule that brings its process down costs a new process and nothing else. A script that calls this needs
    the guard ``if __name__ == "__main__":``, since its processes import it.

    Args:
        molecules: Pairs of atomic numbers ``[n]`` and positions ``[n, 3]`` in angstrom; CPU tensors or arrays.
        workers: Processes, at least 1; each takes seconds to start.
        what: Names out of ``XTB_PROPERTIES``.
        progress: Whether to show a bar for more than 50 molecules; not inside another one.

    Returns:
        In the order of ``molecules``: the properties, or None where the calculation failed.

    Raises:
        ImportError: tblite is not installed.
        RuntimeError: The processes cannot be started.
        ValueError: Fewer than one worker, or a name or shape that does not fit.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1. Give the number of CPU cores to use.")
    check_request(what)
    arrays = [(np.asarray(numbers), np.asarray(positions)) for numbers, positions in molecules]
    results: list[dict[str, float] | None] = [None] * len(arrays)
    console = Console(stderr=True)
    with Progress(console=console, disable=not progress or len(arrays) <= _BAR_FROM) as bar:
        task = bar.add_task("GFN2-xTB", total=len(arrays))

        def keep(index: int, properties: dict[str, float] | None) -> None:
            results[index] = properties
            bar.advance(task)

        todo = list(range(len(arrays)))
        while todo:
            lost = _calculate(arrays, todo, min(workers, len(todo)), what, keep)
            # Molecules start in order, so whichever broke the pool is among the first that it lost.
            suspects, todo = lost[: 2 * workers + 1], lost[2 * workers + 1 :]
            for index in suspects:
                if _calculate(arrays, [index], 1, what, keep):
                    keep(index, None)
    return results


def _calculate(
    molecules: Sequence[Molecule],
    indices: Sequence[int],
    workers: int,
    what: Collection[str],
    keep: Callable[[int, dict[str, float] | None], None],
) -> list[int]:
    """Hand the results of ``indices`` to ``keep``; the ones lost to a process that died are returned."""
    lost: list[int] = []
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_use_one_thread)
    try:
        _require_start(pool)
        futures = {pool.submit(_properties_or_none, *molecules[i], tuple(what)): i for i in indices}
        for future in as_completed(futures):
            try:
                keep(futures[future], future.result())
            except BrokenProcessPool:
                lost.append(futures[future])
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(lost)


def _require_start(pool: ProcessPoolExecutor) -> None:
    try:
        pool.submit(_started).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "The processes for GFN2-xTB died as they started; expected them to import the program that asks for them. "
            'Put its last part under: if __name__ == "__main__":'
        ) from error


def _started() -> None:
    """Comes back once a process runs."""


def _use_one_thread() -> None:
    # tblite reads the variable as it is loaded, which is later; where it shares torch's OpenMP torch sets it.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _properties_or_none(numbers: np.ndarray, positions: np.ndarray, what: Collection[str]) -> dict[str, float] | None:
    try:
        return xtb_properties(numbers, positions, what)
    except XTBError:
        return None
