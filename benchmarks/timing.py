"""Ratios of times, taken in turns, so that background load affects both sides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track


class Ratio(NamedTuple):
    """One line of the table.

    Attributes:
        what: The comparison.
        values: Its ratio in every repeat.
        goal: Upper bound of the ratio; None without one.
    """

    what: str
    values: list[float]
    goal: float | None


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(job: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """``job`` as a function that returns how long it takes."""

    def measure() -> float:
        started = now(device)
        job()
        return now(device) - started

    return measure


def interleaved(jobs: Mapping[str, Callable[[], float]], repeats: int, what: str) -> dict[str, list[float]]:
    """The times that the jobs return, run in turns; a first round warms up and does not count.

    Args:
        jobs: Each returns a time in seconds.
        repeats: Number of rounds that count.
        what: Label of the progress on standard error.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in track(range(repeats + 1), description=what, console=Console(stderr=True)):
        for name, job in jobs.items():
            taken = job()
            if repeat:
                seconds[name].append(taken)
    return seconds


def over(first: list[float], second: list[float]) -> list[float]:
    """Round by round, the first as a multiple of the second."""
    return [a / b for a, b in zip(first, second, strict=True)]
