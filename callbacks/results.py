"""The numbers of a run: as a file, and as a table in the terminal."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import tag_lightning

ABSENT = "\N{EN DASH}"
LEADING = ("fid", "accuracy", "time_gap")
TRAILING = ("seconds", "num_samples")
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "diffusers")


def results_payload(arms: Mapping[str, Mapping[str, Any]], seed: int, config: Any) -> dict[str, Any]:
    """What ``results.json`` holds.

    Args:
        arms: Figures of each arm, such as ``{"dps": {"fid": .., "accuracy": .., "time_gap": .., "seconds": ..,
            "num_samples": ..}}``.
        seed: Seed of the samples.
        config: What the run was configured with.
    """
    return {"arms": {arm: dict(values) for arm, values in arms.items()}, "seed": seed, "config": config} | {
        "versions": versions()
    }


def write_results(path: Path, payload: Mapping[str, Any]) -> None:
    """Write ``payload`` as JSON, all of it or nothing: a reader sees the old file or the new one.

    NaN and infinity become null, which strict parsers read. Tensors and arrays become numbers or lists,
    dataclasses objects, and anything else JSON does not know its ``str``.

    Raises:
        OSError: If the folder cannot be written; names it and the way out.
    """
    text = json.dumps(_plain(payload), indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        _remove_quietly(temporary)


def require_writable(folder: Path) -> None:
    """Make sure that files can be written into ``folder``, which is created if need be. Call before long work.

    Raises:
        OSError: If not; names the folder and the way out.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that influence results; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["torch"] = str(torch.__version__)
    found["tag_lightning"] = tag_lightning.__version__
    return found


def results_table(arms: Mapping[str, Mapping[str, Any]], title: str | None = None, absent: str = ABSENT) -> Table:
    """One row an arm, one column for every number or text that at least one arm has.

    Args:
        arms: Figures of each arm; lists, tensors and the like are left out.
        title: Written above the table.
        absent: Stands where an arm lacks a value or has None.
    """
    columns = _columns(arms)
    # Text, because rich would take a plain string's square brackets for markup.
    table = Table(title=None if title is None else Text(title), title_justify="left")
    table.add_column("arm", overflow="fold")
    for column in columns:
        table.add_column(Text(column), justify="right", overflow="fold")
    for arm, values in arms.items():
        cells = (arm, *(_cell(column, values.get(column), absent) for column in columns))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def print_results(arms: Mapping[str, Mapping[str, Any]], title: str | None = None, file: TextIO | None = None) -> None:
    """Print the table of ``arms`` to ``file``, by default the terminal.

    Where the output is no terminal it is as wide as it needs to be, so that nothing is cut in log files.
    """
    console = Console(file=file)
    absent = ABSENT if console.encoding.startswith("utf") else "-"
    table = results_table(arms, title, absent)
    if not console.is_terminal:
        console.width = max(console.width, Console(width=10_000).measure(table).maximum)
    console.print(table)


def _columns(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    shown = [name for values in arms.values() for name, value in values.items() if isinstance(value, int | float | str)]
    between = [name for name in dict.fromkeys(shown) if name not in LEADING + TRAILING]
    return [name for name in (*LEADING, *between, *TRAILING) if name in shown]


def _cell(column: str, value: Any, absent: str) -> str:
    if isinstance(value, bool | int | str):
        return str(value)
    if not isinstance(value, float):
        return absent
    if column == "seconds":
        return f"{value:.3g}"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """``value`` in terms of what strict JSON knows."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _unwritable(folder: Path, error: OSError) -> OSError:
    return OSError(
        f"cannot write into {folder} ({error.strerror or error}); "
        "choose another folder, or free space and check the permissions of this one"
    )


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
