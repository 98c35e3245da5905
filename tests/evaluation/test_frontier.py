"""Frontiers of results whose truth is known."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.seeds import frontier_tables
from tag_lightning.evaluation import frontier as frontier_module
from tag_lightning.evaluation.arms import SweepPoint
from tag_lightning.evaluation.frontier import NO_SHARED_RANGE, Frontier
from tag_lightning.evaluation.sample_rows import SampleRows
from tag_lightning.evaluation.seed_results import ROWS_FILE, SeedResults
from tag_lightning.metrics.frechet import resampled_distances

SCALES = (1, 2, 4)


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier_module, "_RESAMPLES", 150)


def seed_results(
    seed: int = 0, parameter: str = "scale", rows: SampleRows | None = None, guided: bool = True, **curves: Any
) -> SeedResults:
    """Results whose curves are lists of ``(alignment figures, quality figures)``, one per value of the parameter."""
    figures, points = {}, {}
    for curve, arms in curves.items():
        for value, arm in zip(SCALES, arms, strict=False):
            name = f"{curve} {parameter}={value}"
            figures[name] = {"num_samples": 100, "seconds": 0.1 * value} | arm
            points[name] = SweepPoint(curve, parameter, value, guided)
    return SeedResults(seed, figures, points, rows)


def images(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"accuracy": accuracy, "fid": fid} for accuracy, fid in pairs]


def test_the_figure_of_merit_of_curves_a_constant_factor_apart() -> None:
    # FID = 10 * 4^accuracy, and half of that.
    first = images(*((a, 10 * 4**a) for a in (0.2, 0.5, 0.8)))
    second = images(*((a, 5 * 4**a) for a in (0.3, 0.6, 0.9)))
    merit = Frontier([seed_results(dps=first, other=second)]).merit("dps", "other")
    assert merit.log_ratio == pytest.approx(math.log(0.5))
    assert merit.shared == [[0.3, 0.8]]
    assert (merit.low, merit.high, merit.note) == (None, None, "")


def test_errors_and_stability_are_turned_so_that_less_error_and_more_stability_are_better() -> None:
    # Instability 0.4 exp(-mae), and a quarter of it.
    def molecules(factor: float, *errors: float) -> list[dict[str, float]]:
        return [{"mae_alpha": e, "mae_mu": 0.0, "atom_stability": 1 - factor * math.exp(-e)} for e in errors]

    frontier = Frontier([seed_results(dps=molecules(0.4, 1, 2, 3), other=molecules(0.1, 2, 3, 4))])
    merit = frontier.merit("dps", "other")
    assert tuple(frontier.measures) == ("mae_alpha", "atom_stability")
    assert merit.log_ratio == pytest.approx(math.log(0.25))
    assert merit.shared == [[2, 3]]
    assert frontier.chosen("dps", 2.5, 0) == "dps scale=2"
    assert frontier.common_alignment(0) == 2


@pytest.mark.parametrize(
    ("figures", "alignment", "chosen"),
    [
        ({"mae_ink": [0.2, 0.1], "accuracy": [0.5, 0.4], "accuracy_ink": [0, 1], "accuracy_all": [0.1, 0.3]}, "all", 1),
        ({"mae_alpha": [2.0, 1.0], "within_mu": [0.6, 0.4], "mae_homo": [1.0, 2.0]}, "within_mu", 0),
    ],
)
def test_what_was_asked_as_a_whole_is_the_alignment(
    figures: dict[str, list[float]], alignment: str, chosen: int
) -> None:
    arms = [{"fid": 9.0} | {name: values[k] for name, values in figures.items()} for k in range(2)]
    frontier = Frontier([seed_results(dps=arms)])
    assert frontier.measures.alignment.endswith(alignment)
    assert frontier.common_alignment(0) == arms[chosen][frontier.measures.alignment]


def asking(run: SeedResults, **asked: str) -> SeedResults:
    """The same results, whose curves were asked for the conditions named."""
    run.points = {arm: point._replace(asked=asked[point.curve]) for arm, point in run.points.items()}
    return run


def test_curves_are_compared_only_if_they_were_asked_for_the_same_and_by_that() -> None:
    def digits(ink: float, factor: float) -> list[dict[str, float]]:
        return [
            {"accuracy": 0.1, "accuracy_ink": ink * k, "accuracy_all": 0.01 * k, "fid": factor * 4 ** (ink * k)}
            for k in (1, 2, 3)
        ]

    run = seed_results(ink=digits(0.2, 8), short=digits(0.3, 4), both=digits(0.1, 2))
    frontier = Frontier([asking(run, ink="ink", short="ink", both="")])
    (merit,) = frontier.merits
    assert (merit.first, merit.second, merit.over) == ("ink", "short", "accuracy_ink")
    assert merit.log_ratio == pytest.approx(math.log(0.5))
    assert merit.shared == [[pytest.approx(0.3), pytest.approx(0.6)]]
    assert frontier.measures.alignment == "accuracy_all"
    assert Frontier([asking(run, ink="ink", short="ink", both="ink")]).measures.alignment == "accuracy_ink"
    assert len(Frontier([asking(run, ink="", short="", both="")]).merits) == 3


@pytest.mark.parametrize(
    ("asked", "alignment"),
    [
        ("mu", "within_mu"),
        ("alpha", "mae_alpha"),
        ("alpha, gap", "mae_alpha"),
        ("label", "within_mu"),
        ("", "within_mu"),
    ],
)
def test_a_property_that_was_asked_for_is_the_alignment(asked: str, alignment: str) -> None:
    arm = {"mae_gap": 0.2, "mae_alpha": 2.0, "within_mu": 0.6, "fid": 9.0}
    assert Frontier([asking(seed_results(dps=[arm]), dps=asked)]).measures.alignment == alignment


def test_a_stability_of_one_has_a_finite_cost() -> None:
    perfect = [{"mae_mu": 1.0, "atom_stability": 1.0}]
    flawed = [{"mae_mu": 1.0, "atom_stability": 0.99}]
    merit = Frontier([seed_results(a=flawed, b=perfect)]).merit("a", "b")
    assert merit.log_ratio == pytest.approx(math.log(0.01 / 100 / 0.01))


def test_curves_that_do_not_meet_say_so_and_which_one_dominates() -> None:
    frontier = Frontier([seed_results(weak=images((0.1, 9), (0.2, 10)), strong=images((0.5, 3), (0.9, 4)))])
    merit = frontier.merit("weak", "strong")
    assert (merit.log_ratio, merit.low, merit.shared, merit.note) == (None, None, [None], NO_SHARED_RANGE)
    assert merit.dominant == "strong"
    assert NO_SHARED_RANGE in frontier.table()[1]


def test_the_merit_of_several_seeds_is_the_mean_of_theirs() -> None:
    runs = [
        seed_results(seed, dps=images((0.2, 10), (0.8, 20)), other=images((0.2, 10 * f), (0.8, 20 * f)))
        for seed, f in enumerate((0.5, 0.25))
    ]
    assert Frontier(runs).merit("dps", "other").log_ratio == pytest.approx((math.log(0.5) + math.log(0.25)) / 2)


def test_equal_time_is_compared_where_the_number_of_steps_changes() -> None:
    slow, fast = images((0.5, 16), (0.6, 8), (0.7, 4)), images((0.5, 8), (0.6, 4), (0.7, 2))
    frontier = Frontier([seed_results(parameter="num_steps", slow=slow, fast=fast)])
    by_time = {merit.over: merit for merit in frontier.merits}
    assert by_time["seconds"].log_ratio == pytest.approx(math.log(0.5))
    assert by_time["seconds"].shared == [[pytest.approx(0.1), pytest.approx(0.4)]]
    assert [merit.over for merit in Frontier([seed_results(slow=slow, fast=fast)]).merits] == ["accuracy"]


@pytest.mark.parametrize(("parameter", "times"), [("bits", 0), ("num_steps", 1)])
def test_sweeps_without_guidance_are_compared_at_equal_time_alone(parameter: str, times: int) -> None:
    first, second = (images((0.1, fid), (0.12, fid / 2)) for fid in (8, 4))
    frontier = Frontier([seed_results(0, parameter, guided=False, plain=first, corrected=second)])
    assert [merit.over for merit in frontier.merits] == ["seconds"] * times
    assert frontier.reported(0.1, 0) == []
    assert list(frontier.pictures()) == [f"sweep_{parameter}"]
    assert len(frontier_tables(frontier, [0])) == times


def test_an_arm_outside_of_sweeps_is_compared_where_it_stands() -> None:
    run = seed_results(dps=images((0.2, 10), (0.8, 40)))
    run.figures["rule"] = {"accuracy": 0.5, "fid": 10.0, "num_samples": 100}
    run.figures["dps"] = {"accuracy": 0.9, "fid": None, "num_samples": 100}
    frontier = Frontier([run])
    assert list(frontier.curves) == ["dps", "rule", "dps (single arm)"]
    assert [(merit.first, merit.second) for merit in frontier.merits] == [("dps", "rule")]
    assert frontier.merits[0].log_ratio == pytest.approx(math.log(0.5))
    assert frontier.merits[0].dominant is None


def test_values_are_chosen_on_one_seed_and_reported_on_the_others() -> None:
    first = seed_results(0, dps=images((0.3, 5), (0.6, 8), (0.7, 9)))
    second = seed_results(1, dps=images((0.2, 6), (0.9, 7), (0.7, 1)))
    frontier = Frontier([first, second])
    assert frontier.common_alignment(0) == 0.7
    (choice,) = frontier.reported(0.5, 0)
    assert (choice.arm, choice.value, choice.alignment, choice.quality) == ("dps scale=2", 2, [0.9], [7])
    assert frontier.chosen("dps", 0.5, 1) == "dps scale=4"
    (none,) = frontier.reported(0.8, 0)
    assert (none.arm, none.alignment) == (None, [])
    with pytest.raises(ValueError, match="seed must be one of 0, 1, got 7"):
        frontier.chosen("dps", 0.5, 7)


def test_results_without_both_measures_are_refused() -> None:
    with pytest.raises(ValueError, match="needs arms with accuracy, within_<property> or mae_<property>"):
        Frontier([seed_results(toy=[{"w1": 0.3}])])


# Features N(shift, 1) in two dimensions against N(0, 1): the Frechet distance is shift^2 in all.
SHIFTS = {"plain": (1.0, 1.5, 2.0), "better": (0.7, 1.05, 1.4)}
CHANCES = (0.3, 0.5, 0.7)
TRUTH = 2 * math.log(0.7)


def gaussian_results(seed: int, count: int = 300) -> SeedResults:
    """Paired arms: the same noise and the same draws of being correct in all of them."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    luck = torch.rand(count, generator=generator, dtype=torch.float64)
    moments = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    rows = SampleRows({}, {}, moments)
    curves: dict[str, list[dict[str, float]]] = {}
    for curve, shifts in SHIFTS.items():
        for scale, shift, chance in zip(SCALES, shifts, CHANCES, strict=True):
            arm = f"{curve} scale={scale}"
            features, correct = noise + torch.tensor([shift, 0.0]), (luck < chance).double()
            rows.features[arm] = features.float()
            rows.terms[arm] = {"accuracy": torch.stack([correct, torch.ones(count, dtype=torch.float64)])}
            fid = resampled_distances(features, torch.ones(1, count), *moments).item()
            figures = {"accuracy": correct.mean().item(), "fid": fid, "num_samples": count}
            curves.setdefault(curve, []).append(figures)
    return seed_results(seed, rows=rows, **curves)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    merits = [Frontier([gaussian_results(seed)]).merit("plain", "better") for seed in range(12)]
    bounds = [(merit.low, merit.high) for merit in merits]
    assert all(low is not None and high is not None and high - low < 0.3 for low, high in bounds)
    covered = sum(low <= TRUTH <= high for low, high in bounds)  # type: ignore[operator]
    assert covered >= 10  # of 12 at 95 %: fewer with a probability of 0.002
    assert all(merit.high < 0 for merit in merits)  # type: ignore[operator]


def test_several_seeds_make_the_interval_cover_both_sources_of_spread() -> None:
    merit = Frontier([gaussian_results(seed) for seed in range(3)]).merit("plain", "better")
    assert merit.low is not None
    assert merit.high is not None
    assert merit.low <= TRUTH <= merit.high


def test_samples_are_resampled_in_pairs() -> None:
    """A curve against itself under another name has no spread at all."""
    run = gaussian_results(0)
    assert run.rows is not None
    for scale in SCALES:
        old, new = f"plain scale={scale}", f"copy scale={scale}"
        run.figures[new], run.points[new] = run.figures[old], SweepPoint("copy", "scale", scale)
        run.rows.features[new], run.rows.terms[new] = run.rows.features[old], run.rows.terms[old]
    merit = Frontier([run]).merit("plain", "copy")
    assert (merit.log_ratio, merit.low, merit.high) == (0, 0, 0)


def write(folder: Path, run: SeedResults) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sweep = {arm: point._asdict() for arm, point in run.points.items()}
    path = folder / "results.json"
    path.write_text(json.dumps({"arms": run.figures, "seed": run.seed, "sweep": sweep}))
    if run.rows is not None:
        run.rows.write(folder / ROWS_FILE)
    return path


def test_files_of_several_seeds_hold_the_same_frontier(tmp_path: Path) -> None:
    runs = [gaussian_results(seed, 60) for seed in range(2)]
    frontier = Frontier.read([write(tmp_path / str(run.seed), run) for run in runs])
    assert frontier.merits == Frontier(runs).merits
    frontier.save(tmp_path)
    payload = json.loads((tmp_path / "frontier.json").read_text())
    assert (payload["alignment"], payload["quality"], payload["seeds"]) == ("accuracy", "fid", [0, 1])
    assert payload["curves"]["plain"]["parameter"] == "scale"
    assert payload["curves"]["plain"]["values"] == list(SCALES)
    assert payload["merits"][0]["log_ratio"] == frontier.merits[0].log_ratio
    with (tmp_path / "frontier.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * 6
    assert table[0]["arm"] == "plain scale=1"
    assert float(table[0]["fid"]) == runs[0].figures["plain scale=1"]["fid"]
    for name in ("frontier", "sweep_scale"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture))) > 10


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: run.figures.popitem(), "of seed 1 have other arms than those of seed 0"),
        (lambda run: run.figures["plain scale=1"].update(accuracy=0.123), "does not belong to results.json"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    spoil: Callable[[SeedResults], Any], message: str, tmp_path: Path
) -> None:
    runs = [gaussian_results(seed, 30) for seed in range(2)]
    spoil(runs[1])
    paths = [write(tmp_path / str(run.seed), run) for run in runs]
    with pytest.raises(ValueError, match=message):
        Frontier.read(paths)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="holds no results of a run"):
        Frontier.read([path])


def test_a_missing_figure_takes_its_point_out_of_the_curve() -> None:
    broken: list[dict[str, Any]] = [*images((0.2, 10), (0.5, 20)), {"accuracy": None, "fid": 1.0}]
    frontier = Frontier([seed_results(dps=broken, other=images((0.2, 10), (0.5, 20)))])
    assert frontier.merit("dps", "other").log_ratio == pytest.approx(0)
    assert isinstance(frontier.picture, Tensor)


def test_axes_are_named_as_in_the_figures_of_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[tuple[str, str]] = []
    draw = frontier_module.frontier_curves

    def noted(lines: Any, x_label: str, y_label: str, lower_x_is_better: bool) -> Any:
        named.append((x_label, y_label))
        return draw(lines, x_label, y_label, lower_x_is_better)

    monkeypatch.setattr(frontier_module, "frontier_curves", noted)
    molecules = [{"mae_alpha": e, "atom_stability": 1 - 0.1 * e} for e in (1.0, 2.0)]
    for arms in (images((0.2, 20.0), (0.5, 30.0)), molecules):
        assert Frontier([seed_results(dps=arms)]).picture.ndim == 3
    assert named == [("accuracy", "FID"), ("MAE of alpha [bohr^3]", "1 - atom stability")]
