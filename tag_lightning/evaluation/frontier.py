"""The frontier between doing what is asked and staying on the data: a curve per sweep, compared at equal alignment."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tag_lightning.evaluation.envelope import Curve, dominates, mean_log_ratio, shared_range
from tag_lightning.evaluation.figures import FrontierLine, figure_pixels, frontier_curves, save_png
from tag_lightning.evaluation.metric_labels import metric_label
from tag_lightning.evaluation.report import write_results
from tag_lightning.evaluation.seed_results import Measures, Over, Resampled, SeedResults
from tag_lightning.evaluation.sweep_figures import SweepLine, sweep_figure
from tag_lightning.files import replacing

NO_SHARED_RANGE = "no shared range"
_RESAMPLES = 400


@dataclass(frozen=True)
class Merit:
    """The cost of one curve over that of another, at equal alignment or at equal time.

    Attributes:
        first: The curve compared with.
        second: The curve compared.
        over: The metric of alignment, or ``seconds`` per sample.
        log_ratio: Mean over the shared range, and over seeds, of ``log(cost of second / cost of first)``; negative if
            ``second`` is better. None if no seed has a shared range.
        low: Lower end of the 95 % interval; None without rows of single samples.
        high: Upper end.
        shared: Shared range in each seed, in the metric's unit; None in a seed without.
        dominant: The curve that has, on every seed, for each point of the other one with no less alignment and no
            more cost; None if neither.
        note: ``no shared range``, or empty.
    """

    first: str
    second: str
    over: str
    log_ratio: float | None
    low: float | None
    high: float | None
    shared: list[list[float] | None]
    dominant: str | None
    note: str


@dataclass(frozen=True)
class Choice:
    """A point of a curve that was chosen on one seed, and its figures on all others.

    Attributes:
        curve: The curve.
        arm: The chosen arm; None if no point of the curve reaches the alignment on the seed of the choice.
        value: Its value of the swept parameter; None outside of sweeps.
        alignment: Alignment on each of the other seeds, in the metric's unit; None where the arm failed.
        quality: Quality on each of them, likewise.
    """

    curve: str
    arm: str | None
    value: float | None
    alignment: list[float | None]
    quality: list[float | None]


class Frontier:
    """Curves of alignment against quality, from the results of one seed or of several.

    The cost is ``fid``, or the instability ``1 - atom_stability``. An arm outside of sweeps is a curve of one point.
    Curves are compared by their monotone envelopes, see ``envelope``; several seeds by the mean of their figures.
    Sweeps that were asked for different conditions are not compared with each other.

    Args:
        runs: Results of each seed, with the same arms; see ``read``.

    Attributes:
        measures: The metrics of alignment and quality: of what all guided sweeps were asked for, or, if that differs,
            of all conditions together.
        curves: Arms of each curve, in the order of the swept values.

    Raises:
        ValueError: If the results lack an alignment or a quality, see ``Measures``, or have different arms.
    """

    def __init__(self, runs: Sequence[SeedResults]) -> None:
        for run in runs:
            if run.figures.keys() != runs[0].figures.keys() or run.points != runs[0].points:
                raise ValueError(
                    f"the results of seed {run.seed} have other arms than those of seed {runs[0].seed}; run every seed "
                    "with the same configuration"
                )
        points = runs[0].points
        asked = {point.asked for point in points.values() if point.guided}
        measures = Measures.of(runs[0].figures, asked.pop() if len(asked) == 1 else "")
        if measures is None:
            found = sorted({name for figures in runs[0].figures.values() for name in figures})
            raise ValueError(
                "a frontier needs arms with accuracy, within_<property> or mae_<property>, and with fid or "
                f"atom_stability; the results have {', '.join(found)}"
            )
        self.measures = measures
        self._runs = list(runs)
        self.curves: dict[str, list[str]] = {}
        names = {point.curve for point in points.values()}
        for arm in runs[0].figures:
            alone = f"{arm} (single arm)" if arm in names else arm
            self.curves.setdefault(points[arm].curve if arm in points else alone, []).append(arm)
        for arms in self.curves.values():
            arms.sort(key=lambda arm: points[arm].value if arm in points else 0.0)
        self._resamples: dict[Measures, list[Resampled]] = {}

    @classmethod
    def read(cls, paths: Sequence[str | Path]) -> Self:
        """The frontier of ``results.json`` files of different seeds; rows of samples are read from beside them.

        Raises:
            ValueError: If the files hold no results, have different arms, or rows belong to other results.
        """
        return cls([SeedResults.read(Path(path)) for path in paths])

    @property
    def swept(self) -> list[str]:
        """Names of the curves that are sweeps."""
        return [name for name, arms in self.curves.items() if arms[0] in self._runs[0].points]

    @property
    def guided(self) -> list[str]:
        """Names of the sweeps whose samples were asked for something."""
        return [name for name in self.swept if self._runs[0].points[self.curves[name][0]].guided]

    def merit(self, first: str, second: str, over: Over = "alignment") -> Merit:
        """Compare two curves at equal alignment, or at equal seconds per sample.

        The 95 % interval is from resamples of the samples, the same for both curves, and of the seeds.

        Args:
            first: The curve to compare with.
            second: The curve to compare.
            over: Compare at equal ``alignment`` or equal ``seconds``; the latter says something of curves whose time
                changes, those that sweep ``num_steps``.
        """
        arms, measures = (self.curves[first], self.curves[second]), self._measures(first, second)
        pairs = [[run.curve(one, measures, over) for one in arms] for run in self._runs]
        ratios = [mean_log_ratio(*pair) for pair in pairs]
        shared = [shared_range(*pair) for pair in pairs]
        known = [ratio for ratio in ratios if ratio is not None]
        low, high = self._interval(first, second, over) if known else (None, None)
        ahead = [name for name, order in ((first, 1), (second, -1)) if all(dominates(*p[::order]) for p in pairs)]
        return Merit(
            *(first, second, measures.alignment if over == "alignment" else over),
            *(float(np.mean(known)) if known else None, low, high),
            [None if b is None else sorted(measures.signed(end, over) for end in b) for b in shared],
            ahead[0] if len(ahead) == 1 else None,
            "" if known else NO_SHARED_RANGE,
        )

    @cached_property
    def merits(self) -> list[Merit]:
        """Pairs of guided sweeps, or of one and a single arm within its range; sweeps of ``num_steps`` by time."""
        points, swept, found = self._runs[0].points, self.swept, []
        unguided = set(swept).difference(self.guided)
        timed = [name for name in swept if points[self.curves[name][0]].parameter == "num_steps"]
        for first, second in itertools.combinations(self.curves, 2):
            if first not in swept and second not in swept:
                continue
            if unguided.isdisjoint((first, second)) and len(self._asked(first, second)) == 1:
                merit = self.merit(first, second)
                if not merit.note or (first in swept and second in swept):
                    found.append(merit)
            if first in timed and second in timed:
                found.append(self.merit(first, second, "seconds"))
        return found

    def chosen(self, curve: str, alignment: float, seed: int) -> str | None:
        """The arm of a curve with the best quality among those that reach an alignment on one seed.

        Args:
            curve: Name of the curve.
            alignment: Least share, or largest error.
            seed: The seed to choose on.

        Returns:
            None if no arm reaches it.

        Raises:
            ValueError: If no run has that seed.
        """
        run = next((run for run in self._runs if run.seed == seed), None)
        if run is None:
            raise ValueError(f"seed must be one of {', '.join(str(run.seed) for run in self._runs)}, got {seed}")
        table = {arm: run.point(arm, self.measures) for arm in self.curves[curve]}
        reaching = {arm: cost for arm, (x, cost) in table.items() if x >= self.measures.signed(alignment)}
        return min(reaching, key=lambda arm: reaching[arm]) if reaching else None

    def common_alignment(self, seed: int) -> float:
        """The best alignment that all guided sweeps reach on one seed, in the metric's unit."""
        (run,) = (run for run in self._runs if run.seed == seed)
        best = [run.curve(self.curves[name], self.measures).alignment.max(initial=-np.inf) for name in self.guided]
        return float(self.measures.signed(min(best)))

    def reported(self, alignment: float, seed: int) -> list[Choice]:
        """The choice of every guided sweep on ``seed``, see ``chosen``, with its figures on all other seeds."""
        choices = []
        for curve in self.guided:
            arm = self.chosen(curve, alignment, seed)
            figures = [run.figures[arm] for run in self._runs if run.seed != seed] if arm is not None else []
            pairs = [[one.get(name) for one in figures] for name in self.measures]
            choices.append(Choice(curve, arm, None if arm is None else self._runs[0].points[arm].value, *pairs))
        return choices

    def save(self, folder: str | Path) -> None:
        """Write ``frontier.json``, ``frontier.csv``, ``frontier.png`` and ``sweep_<parameter>.png``."""
        folder = Path(folder)
        write_results(folder / "frontier.json", self.payload())
        with replacing(folder / "frontier.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["curve", "arm", "parameter", "value", "seed", *self.measures, "seconds"])
            for curve, arms in self.curves.items():
                for arm, run in itertools.product(arms, self._runs):
                    place = run.points[arm][1:3] if arm in run.points else ("", "")
                    figures = [run.figures[arm].get(name) for name in (*self.measures, "seconds")]
                    rows.writerow([curve, arm, *place, run.seed, *figures])
        for name, picture in self.pictures().items():
            save_png(picture, folder / f"{name}.png")

    def payload(self) -> dict[str, Any]:
        """The content of ``frontier.json``."""
        points = self._runs[0].points
        curves = {
            curve: {
                "parameter": points[arms[0]].parameter if arms[0] in points else None,
                "values": [points[arm].value if arm in points else None for arm in arms],
                **{
                    name: [[run.figures[arm].get(name) for run in self._runs] for arm in arms]
                    for name in (*self.measures, "seconds")
                },
            }
            for curve, arms in self.curves.items()
        }
        return {
            "alignment": self.measures.alignment,
            "quality": self.measures.quality,
            "seeds": [run.seed for run in self._runs],
            "curves": curves,
            "merits": [asdict(merit) for merit in self.merits],
        }

    def table(self) -> list[list[str]]:
        """The merits as rows of cells, headings first."""
        cost = "FID" if self.measures.quality == "fid" else "instability"
        rows = [["curve", "against", "at equal", f"mean change of {cost} %", "95 % interval", "dominant"]]
        for merit in self.merits:
            ends = [_percent(end) for end in (merit.low, merit.high) if end is not None]
            change = merit.note if merit.log_ratio is None else _percent(merit.log_ratio)
            rows.append([merit.second, merit.first, merit.over, change, " to ".join(ends), merit.dominant or ""])
        return rows

    def print(self, file: TextIO | None = None) -> None:
        """Print the merits, if there are any, as a table to ``file``, by default the terminal."""
        if not self.merits:
            return
        heading, *rows = self.table()
        table = Table(title=Text("Frontier"), title_justify="left")
        for column in heading:
            table.add_column(Text(column), overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console = Console(file=file, force_jupyter=None if file is None else False)
        if not console.is_terminal:
            console.width = max(console.width, Console(width=10_000).measure(table).maximum)
        console.print(table)

    @cached_property
    def picture(self) -> Tensor:
        """The curves, bytes ``[3, H, W]``: means over seeds, and bands from the lowest to the highest cost."""
        lines = {name: self._line(name) for name in self.curves}
        kept = {name: line for name, line in lines.items() if len(line.x)}
        quality, alignment = self.measures.quality, self.measures.alignment
        cost = metric_label(quality) if quality == "fid" else f"1 - {metric_label(quality)}"
        return figure_pixels(frontier_curves(kept, metric_label(alignment), cost, self.measures.less_is_better))

    def pictures(self) -> dict[str, Tensor]:
        """The frontier, if a sweep is guided, and the sweeps, bytes ``[3, H, W]`` by name."""
        frontier = {"frontier": self.picture} if self.guided else {}
        return frontier | {f"sweep_{name}": one for name, one in self.sweep_pictures().items()}

    def sweep_pictures(self) -> dict[str, Tensor]:
        """Quality, alignment if guided, reward and Time-Gap by swept parameter, bytes ``[3, H, W]``."""
        points, pictures = self._runs[0].points, {}
        shown = (self.measures.quality, *([self.measures.alignment] if self.guided else []), "reward", "time_gap")
        metrics = [name for name in shown if self._has(name)]
        for parameter in dict.fromkeys(point.parameter for point in points.values()):
            lines = {}
            for curve, arms in self.curves.items():
                if arms[0] in points and points[arms[0]].parameter != parameter:
                    continue
                values = np.array([points[arm].value for arm in arms if arm in points])
                figures = {
                    name: np.array([[run.figure(arm, name) for run in self._runs] for arm in arms]) for name in metrics
                }
                lines[curve] = SweepLine(values, figures)
            pictures[parameter] = figure_pixels(sweep_figure(lines, parameter, metrics))
        return pictures

    def _has(self, name: str) -> bool:
        return any(name in figures for figures in self._runs[0].figures.values())

    def _line(self, name: str) -> FrontierLine:
        seeds = [[run.point(arm, self.measures) for run in self._runs] for arm in self.curves[name]]
        points = np.array([each for each in seeds if np.isfinite(each).all()]).reshape(-1, len(self._runs), 2)
        means, costs = points.mean(1), np.exp(points[..., 1])
        return FrontierLine(self.measures.signed(means[:, 0]), np.exp(means[:, 1]), costs.min(1), costs.max(1))

    def _asked(self, *curves: str) -> set[str]:
        """What the guided sweeps among the curves were asked for."""
        first = (self._runs[0].points.get(self.curves[name][0]) for name in curves)
        return {point.asked for point in first if point is not None and point.guided}

    def _measures(self, first: str, second: str) -> Measures:
        """The metrics that two curves are compared by."""
        asked = self._asked(first, second)
        own = Measures.of(self._runs[0].figures, asked.pop()) if len(asked) == 1 else None
        return own or self.measures

    def _resampled(self, measures: Measures) -> list[Resampled]:
        if measures not in self._resamples:
            self._resamples[measures] = [run.resampled(measures, _RESAMPLES) for run in self._runs]
        return self._resamples[measures]

    def _interval(self, first: str, second: str, over: Over) -> tuple[float | None, float | None]:
        arms, measures = [*self.curves[first], *self.curves[second]], self._measures(first, second)
        runs = list(zip(self._runs, self._resampled(measures), strict=True))
        if not all(arm in resampled for run, resampled in runs for arm in arms if run.figures[arm]):
            return None, None
        ratios = np.full((len(self._runs), _RESAMPLES), np.nan)
        for s, r in np.ndindex(ratios.shape):
            pair = (self._resampled_curve(s, r, name, over, measures) for name in (first, second))
            ratio = mean_log_ratio(*pair)
            ratios[s, r] = np.nan if ratio is None else ratio
        generator = np.random.default_rng(0)
        seeds, picks = (generator.integers(size, size=ratios.shape) for size in ratios.shape)
        drawn = ratios[seeds, picks]
        means = drawn[:, np.isfinite(drawn).any(0)]
        if means.shape[1] < _RESAMPLES / 2:
            return None, None
        low, high = np.quantile(np.nanmean(means, 0), [0.025, 0.975])
        return float(low), float(high)

    def _resampled_curve(self, s: int, r: int, name: str, over: Over, measures: Measures) -> Curve:
        arms = [arm for arm in self.curves[name] if self._runs[s].figures[arm]]
        resampled = [self._resampled(measures)[s][arm] for arm in arms]
        if over == "alignment":
            return Curve(np.array([x[r] for x, _ in resampled]), np.array([cost[r] for _, cost in resampled]))
        x = np.array([self._runs[s].point(arm, measures, over)[0] for arm in arms])
        return Curve(x, np.array([cost[r] for _, cost in resampled]))


def _percent(log_ratio: float) -> str:
    return f"{100 * np.expm1(log_ratio):+.1f}"
