"""Too little memory, told in one line rather than by the kernel's killer or a traceback."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

_LIMITS = Path("/sys/fs/cgroup")
_CPU_ALLOCATOR = "can't allocate memory"
_REMEDY = "lower data.init_args.batch_size or sampling.chunk_size, or choose smaller samples or a smaller network"


def free_memory() -> float:
    """Bytes of RAM that this process may still take; infinite where the system does not tell."""
    free = math.inf
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        # The limit of a container; cached files count as used there, but would make room.
        used = float((_LIMITS / "memory.current").read_text())
        counts = dict(line.split() for line in (_LIMITS / "memory.stat").read_text().splitlines())
        limit = float((_LIMITS / "memory.max").read_text())
        free = min(free, limit - used + float(counts["inactive_file"]))
    except (OSError, ValueError, KeyError, StopIteration):
        pass
    return free


def require_memory(num_bytes: float, what: str, remedy: str) -> None:
    """Check, before it is taken, that there is enough memory.

    Args:
        num_bytes: Bytes to be taken.
        what: The thing that takes them, in the plural.
        remedy: The way out that the error names.

    Raises:
        ValueError: If they are more than are free.
    """
    free = free_memory()
    if num_bytes > free:
        raise ValueError(f"{what} need {_gigabytes(num_bytes)} of memory, and {_gigabytes(free)} are free; {remedy}")


def memory_error(error: BaseException) -> MemoryError | None:
    """Return an error that names the way out, if ``error`` says that memory of CPU or GPU ran out; else None."""
    on_cpu = isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
    if not on_cpu and not isinstance(error, MemoryError | torch.OutOfMemoryError):
        return None
    reason = str(error).partition(_CPU_ALLOCATOR)[2].lstrip(": ") if on_cpu else str(error)
    sizes = ". ".join(re.split(r"\. (?=[A-Z])", reason)[:2])  # further sentences are about the allocator
    return MemoryError(f"memory ran out ({sizes.rstrip('.') or 'the size is unknown'}); {_REMEDY}")


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
