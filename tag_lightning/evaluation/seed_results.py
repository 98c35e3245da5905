"""The results of one seed, read from its files, as points of curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import torch

from tag_lightning.evaluation.arms import SweepPoint
from tag_lightning.evaluation.envelope import Curve
from tag_lightning.evaluation.sample_rows import SampleRows

ROWS_FILE = "sweep_rows.npz"
Over = Literal["alignment", "seconds"]
Resampled: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]
"""Coordinate and log cost ``[R]`` of each arm in R resamples."""
_SMALLEST_DISTANCE = 1e-12
_SMALLEST_SHARE = 0.01  # of one sample


class Measures(NamedTuple):
    """The metrics of a frontier.

    Attributes:
        alignment: A share of samples that satisfy what was asked, of which more is better: ``accuracy_all``,
            ``accuracy`` or ``within_<property>``; or the error ``mae_<property>``.
        quality: ``fid``, which is the cost itself, or ``atom_stability``, whose cost is the share it lacks.
    """

    alignment: str
    quality: str

    @classmethod
    def of(cls, arms: Mapping[str, Mapping[str, Any]], asked: str = "") -> Self | None:
        """The metrics that the figures of the arms offer, the first of each list; None if one is missing.

        All targets together come before the class alone, and a range, which decides, before an error.

        Args:
            arms: Figures by arm.
            asked: What the samples were asked for, see ``SweepPoint``. One name by itself has figures of its own;
                several, unless they are all of the run's, are compared by the first that has.
        """
        names = list(dict.fromkeys(name for figures in arms.values() for name in figures))
        own = [f"{kind}_{one}" for one in asked.split(", ") for kind in ("accuracy", "within", "mae")]
        ranges, errors = ([name for name in names if name.startswith(kind)] for kind in ("within_", "mae_"))
        order = [*(own if asked else []), "accuracy_all", "accuracy", *ranges, *errors]
        alignment = next((name for name in order if name in names), None)
        quality = next((name for name in ("fid", "atom_stability") if name in names), None)
        return None if alignment is None or quality is None else cls(alignment, quality)

    @property
    def less_is_better(self) -> bool:
        """True if the alignment is an error."""
        return self.alignment.startswith("mae_")

    def signed(self, values: Any, over: Over = "alignment") -> Any:
        """Values of the alignment, or seconds, as a coordinate of which more is better; its own inverse."""
        return -values if over == "seconds" or self.less_is_better else values

    def log_cost(self, values: Any, num_samples: int) -> np.ndarray:
        """Logarithm of the cost, where nothing is unstable that of less than any single atom would add."""
        if self.quality == "fid":
            return np.log(np.maximum(values, _SMALLEST_DISTANCE))
        return np.log(np.maximum(1 - np.asarray(values), _SMALLEST_SHARE / num_samples))


@dataclass
class SeedResults:
    """The results of one seed.

    Attributes:
        seed: The seed.
        figures: Value by metric, by arm; None for one that was not finite. A failed arm has none.
        points: Places of arms on the curves of sweeps.
        rows: Measurements of every sample; None if the run kept none.
        failed: Names of the arms that failed.
        reference: Value by metric of held-out real data; empty if they were not measured.
    """

    seed: int
    figures: dict[str, dict[str, Any]]
    points: dict[str, SweepPoint]
    rows: SampleRows | None = None
    failed: tuple[str, ...] = ()
    reference: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The content of a ``results.json``, with the rows of samples from beside it.

        Raises:
            ValueError: If the file holds no results, or the rows belong to other ones.
        """
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            points = {arm: SweepPoint(**point) for arm, point in results.get("sweep", {}).items()}
            failed, reference = tuple(results.get("failed", {})), dict(results.get("reference") or {})
            figures = results["arms"] | {arm: {} for arm in failed}
            found = cls(results["seed"], figures, points, failed=failed, reference=reference)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no results of a run; remove it and run that seed again") from error
        rows_path = path.with_name(ROWS_FILE)
        if points and rows_path.is_file():
            found.rows = SampleRows.read(rows_path)
            found._require_own_rows(path)
        return found

    def point(self, arm: str, measures: Measures, over: Over = "alignment") -> tuple[float, float]:
        """Coordinate, of which more is better, and log cost of an arm; NaN where a figure is missing."""
        x = self.figure(arm, measures.alignment if over == "alignment" else "seconds")
        cost = measures.log_cost(self.figure(arm, measures.quality), self.figures[arm].get("num_samples", 1))
        return float(measures.signed(x, over)), float(cost)

    def figure(self, arm: str, name: str) -> float:
        """A figure of an arm; NaN where it is missing or was not finite."""
        value = self.figures[arm].get(name)
        return np.nan if value is None else value

    def curve(self, arms: Sequence[str], measures: Measures, over: Over = "alignment") -> Curve:
        """The points of arms that have both figures."""
        table = np.array([self.point(arm, measures, over) for arm in arms])
        return Curve(*table[np.isfinite(table).all(1)].T)

    def resampled(self, measures: Measures, num_resamples: int) -> Resampled:
        """Coordinate and log cost of each arm in resamples of its samples, the same for all arms.

        Resampling repeats samples, which raises every Frechet distance by about as much as the finite number of
        samples did before. Resampled distances are therefore centred on the measured one, and their deviation from
        it enters the logarithm to first order, which needs no distance to stay above 0.

        Returns:
            ``[R]`` each, by arm; an arm without rows or figures is missing.
        """
        found: Resampled = {}
        if self.rows is None:
            return found
        total = max(figures.get("num_samples", 0) for figures in self.figures.values())
        drawn = np.random.default_rng(self.seed).multinomial(total, np.full(total, 1 / total), num_resamples)
        for arm, figures in self.figures.items():
            x, quality = (self.rows.resampled(arm, name, torch.from_numpy(drawn)) for name in measures)
            measured = figures.get(measures.quality)
            if x is None or quality is None or measured is None:
                continue
            cost = measures.log_cost(quality, total)
            if measures.quality == "fid":
                cost = measures.log_cost(measured, total) + (quality - quality.mean()) / max(
                    measured, _SMALLEST_DISTANCE
                )
            found[arm] = (measures.signed(x), cost)
        return found

    def _require_own_rows(self, path: Path) -> None:
        assert self.rows is not None
        for arm, terms in self.rows.terms.items():
            for figure, (above, below) in terms.items():
                measured = self.figures.get(arm, {}).get(figure)
                if measured is not None and not np.isclose(float(above.sum() / below.sum()), measured, rtol=1e-6):
                    raise ValueError(
                        f"{path.with_name(ROWS_FILE)} does not belong to {path.name}: it has another {figure} of "
                        f"{arm}; remove both and run that seed again"
                    )
