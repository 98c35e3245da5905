"""Results of a comparison: figures and samples per arm, as an object, a table and files."""

from __future__ import annotations

import io
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

import tag_lightning
from tag_lightning.evaluation.arm_result import ArmResult, FailedArm, FailedArmError
from tag_lightning.evaluation.arms import SweepPoint
from tag_lightning.evaluation.frontier import Frontier
from tag_lightning.evaluation.report import (
    Sound,
    write_pictures,
    write_results,
    write_sounds,
    write_table,
    write_time_gaps,
)
from tag_lightning.evaluation.sample_rows import SampleRows
from tag_lightning.evaluation.seed_results import ROWS_FILE, Measures
from tag_lightning.evaluation.task import SamplingTask

ABSENT = "\N{EN DASH}"
REAL_DATA = "(real data)"
FAILED = "(failed)"
PUBLISHED = " (paper)"
LEADING = ("fid", "accuracy", "time_gap")
TRAILING = ("seconds", "num_samples")
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "diffusers")


@dataclass(eq=False, repr=False)
class Results(Mapping[str, ArmResult]):
    """Results by arm, in the order of drawing; ``print`` shows the table. Arms that failed are not among them.

    Attributes:
        arms: Result by arm.
        task: The task, with its seed and the figures of real data.
        predictor: The time predictor that corrects; None without one.
        time_gap_by: The time predictor that measured the Time-Gap, in words.
        failed: Arms that became NaN or infinite, by name.
        published: Published figures for the same data, by arm and metric, shown beside ours.
    """

    arms: dict[str, ArmResult]
    task: SamplingTask
    predictor: nn.Module | None
    time_gap_by: str
    failed: dict[str, FailedArm] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ArmResult:
        return self.arms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arms)

    def __len__(self) -> int:
        return len(self.arms)

    def __str__(self) -> str:
        stream = io.StringIO()
        self.print(file=stream)
        return stream.getvalue()

    __repr__ = __str__

    def print(self, title: str | None = None, file: TextIO | None = None) -> None:
        """Print the table to ``file``, by default the terminal: real data first, failed arms and their errors last."""
        reference = {REAL_DATA: self.task.reference} if self.task.reference else {}
        failed: dict[str, dict[str, float]] = {f"{name} {FAILED}": {} for name in self.failed}
        print_results(reference | self._compared | failed, title, file)
        for one in self.failed.values():
            print(f"{FAILED} {one.error}", file=file)

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Value by metric, by arm."""
        return {name: result.figures for name, result in self.items()}

    @property
    def _compared(self) -> dict[str, dict[str, float]]:
        """The figures with the published ones among them."""
        theirs = {
            name: {f"{key}{PUBLISHED}": value for key, value in row.items()} for name, row in self.published.items()
        }
        return {name: figures | theirs.get(name, {}) for name, figures in self.figures.items()}

    @property
    def points(self) -> dict[str, SweepPoint]:
        """Places of the arms on the curves of sweeps, failed ones included, by arm; others are missing."""
        drawn = {name: result.point for name, result in self.items()}
        points = drawn | {name: one.point for name, one in self.failed.items()}
        return {name: point for name, point in points.items() if point is not None}

    def require_all_drawn(self, place: str | Path | None = None) -> None:
        """Check that no arm failed.

        Args:
            place: Where the figures of the others are, for the error.

        Raises:
            FailedArmError: Names each failed arm and its error.
        """
        if self.failed:
            kept = "" if place is None else f", the others are in {place}"
            errors = "; ".join(one.error for one in self.failed.values())
            raise FailedArmError(f"{len(self.failed)} of {len(self) + len(self.failed)} arms failed{kept}: {errors}")

    def payload(self, config: Any = None, **context: Any) -> dict[str, Any]:
        """The content of ``results.json``.

        Args:
            config: Configuration of the run.
            **context: Further entries, such as the ``global_step`` of the weights.
        """
        payload = {"arms": self.figures, "seed": self.task.seed, "config": config, "versions": versions()} | context
        if self.failed:
            payload["failed"] = {name: one.error for name, one in self.failed.items()}
        if self.published:
            payload["published"] = self.published
        if self.points:
            payload["sweep"] = {arm: point._asdict() for arm, point in self.points.items()}
        return payload | {
            "features": self.task.features_name,
            "num_reference": self.task.num_reference,
            "reference": self.task.reference,
            "time_gap_by": self.time_gap_by,
        }

    def pictures(self) -> dict[str, Tensor]:
        """Pictures of the samples, bytes ``[3, H, W]`` by name."""
        return self.task.pictures(self.arms, self.predictor)

    def sounds(self) -> dict[str, Sound]:
        """Sounds of the samples by name, of tasks that have any."""
        return self.task.sounds(self.arms)

    def save_figures(self, folder: str | Path, config: Any = None, **context: Any) -> dict[str, Tensor]:
        """Write figures, rows of sweeps and Time-Gap curves into ``folder``; arguments as of ``payload``.

        The figures go into ``results.json``, and as a table into ``results.csv``.

        Returns:
            The picture of the curves by name, if there are any.
        """
        folder = Path(folder)
        if self.points:  # before the results: whoever finds those finds the rows of the same samples
            SampleRows.of(self.arms, self.task).write(folder / ROWS_FILE)
        write_results(folder / "results.json", self.payload(config, **context))
        write_table(folder / "results.csv", self._compared, columns_of(self._compared))
        curves = {name: (r.timesteps, r.gaps) for name, r in self.items() if r.gaps is not None}
        return {"time_gap": write_time_gaps(folder, curves)} if curves else {}

    def save_frontier(self, folder: str | Path) -> Frontier | None:
        """Write the frontier of the sweeps into ``folder``, where ``save_figures`` wrote before.

        Returns:
            The frontier; None if no arm was swept or the task does not measure alignment and quality.
        """
        if not self.points or Measures.of(self.figures) is None:
            return None
        frontier = Frontier.read([Path(folder) / "results.json"])
        frontier.save(folder)
        return frontier

    def save(self, folder: str | Path, config: Any = None, **context: Any) -> None:
        """Write figures, curves, frontier, pictures and sounds into ``folder``; arguments as of ``payload``."""
        self.save_figures(folder, config, **context)
        self.save_frontier(folder)
        write_pictures(Path(folder), self.pictures())
        write_sounds(Path(folder), self.sounds())


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
    """One row per arm, one column for every number or text that at least one arm has.

    Args:
        arms: Figures of each arm; lists, tensors and the like are left out.
        title: Written above the table.
        absent: Stands for a value that is missing or None.
    """
    columns = columns_of(arms)
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

    On a terminal, columns that do not fit go into further tables below the first. On any other output the table is as
    wide as it needs to be, so that log files lose nothing.
    """
    # Rich would draw into a notebook's cell whatever file it was given.
    console = Console(file=file, force_jupyter=None if file is None else False)
    absent = ABSENT if console.encoding.startswith("utf") else "-"
    if not console.is_terminal:
        whole = results_table(arms, title, absent)
        console.width = max(console.width, _width(whole))
        console.print(whole)
        return
    for place, columns in enumerate(_fitting_columns(arms, absent, console.width)):
        part = {arm: {name: values[name] for name in columns if name in values} for arm, values in arms.items()}
        console.print(results_table(part, None if place else title, absent))


def _width(table: Table) -> int:
    return Console(width=10_000).measure(table).maximum


def _fitting_columns(arms: Mapping[str, Mapping[str, Any]], absent: str, width: int) -> list[list[str]]:
    """The columns of each table, as many as fit into a width, at least one."""
    parts: list[list[str]] = [[]]
    for name in columns_of(arms):
        wider = [*parts[-1], name]
        shown = {arm: {key: values[key] for key in wider if key in values} for arm, values in arms.items()}
        if parts[-1] and _width(results_table(shown, None, absent)) > width:
            parts.append([name])
        else:
            parts[-1].append(name)
    return parts


def columns_of(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The numbers and texts that at least one arm has, in the order of the table; published figures follow ours."""
    shown = [name for values in arms.values() for name, value in values.items() if isinstance(value, int | float | str)]
    own = [name for name in dict.fromkeys(shown) if name not in LEADING + TRAILING and not name.endswith(PUBLISHED)]
    pairs = ((name, f"{name}{PUBLISHED}") for name in (*LEADING, *own, *TRAILING))
    return [name for pair in pairs for name in pair if name in shown]


def _cell(column: str, value: Any, absent: str) -> str:
    if isinstance(value, bool | int | str):
        return str(value)
    if not isinstance(value, float):
        return absent
    if column == "seconds":
        return f"{value:.3g}"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
