"""Run a job with several seeds and print mean and spread: ``python -m benchmarks.seeds --seeds 0 1 2``.

What follows ``--`` goes to every run, for example ``-- --sampling.num_steps 50``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table

from tag_lightning.config_files import config_file, merged_with_bases
from tag_lightning.evaluation.frontier import Frontier
from tag_lightning.evaluation.report import write_results
from tag_lightning.evaluation.results import ABSENT, REAL_DATA
from tag_lightning.evaluation.seed_results import Measures, SeedResults
from tag_lightning.modules import ComparisonModule

Arms = Mapping[str, Mapping[str, float]]
Summary = dict[str, dict[str, tuple[float, float]]]


class Shown(NamedTuple):
    """The way a metric is shown.

    Attributes:
        heading: Heading of its column.
        factor: Factor from ``results.json`` to the table: shares are shown in percent.
        change: Heading of the column of changes by TAG.
        relative: Changes are in percent of the arm without TAG.
        digits: Digits after the point.
    """

    heading: str
    factor: float
    change: str
    relative: bool = False
    digits: int = 1


def _share(name: str) -> Shown:
    return Shown(f"{name} %", 100, f"{name}, points")


_FIRST = {
    "fid": Shown("FID", 1, "FID, %", relative=True),
    "accuracy": _share("accuracy"),
    "reward": Shown("reward", 1, "reward", digits=3),
    "atom_stability": _share("atom stability"),
    "molecule_stability": _share("molecule stability"),
    "validity": _share("validity"),
    "connected": _share("connected"),
    "uniqueness": _share("uniqueness"),
    "novelty": _share("novelty"),
    "frechet": Shown("Frechet", 1, "Frechet, %", relative=True),
    "lsd": Shown("LSD dB", 1, "LSD, dB"),
    "snr": Shown("SNR dB", 1, "SNR, dB"),
    "si_sdr": Shown("SI-SDR dB", 1, "SI-SDR, dB"),
    "psnr": Shown("PSNR dB", 1, "PSNR, dB"),
    "precision": _share("precision"),
    "recall": _share("recall"),
}
_HIDDEN = {"seconds", "num_samples"}
_LAST = {"xtb_converged": _share("xTB converged"), "nan": _share("NaN"), "time_gap": Shown("Time-Gap", 1, "Time-Gap")}


def shown(runs: Sequence[Arms]) -> dict[str, Shown]:
    """The metrics that some arm has, in their order; those that this file does not know by their own names."""
    present = list(dict.fromkeys(metric for arm in runs[0].values() for metric in arm))
    further = [metric for metric in present if metric not in _FIRST.keys() | _LAST.keys() | _HIDDEN]
    table = _FIRST | {metric: _further(metric) for metric in further} | _LAST
    return {metric: how for metric, how in table.items() if metric in present}


def _further(metric: str) -> Shown:
    name = metric.replace("xtb_", "xTB ").replace("mae_", "MAE ").replace("_", " ")
    share = metric.removeprefix("xtb_").startswith(("accuracy_", "within_"))
    return _share(name) if share else Shown(name, 1, name, digits=2)


def values(runs: Sequence[Arms]) -> pd.DataFrame:
    """The shown metrics, one row per ``(arm, run)``; NaN for a metric that the arm lacks in some run."""
    frame = pd.DataFrame({(arm, k): run[arm] for arm in runs[0] for k, run in enumerate(runs)}).T
    frame.index.names = ["arm", "run"]
    frame = frame.reindex(columns=list(shown(runs))).astype(float)
    return frame.where(frame.notna().groupby("arm", sort=False).transform("all"))


def with_tag_name(arm: str) -> str:
    """The name of an arm's partner with TAG: ``dps+tag`` of ``dps``, ``dps+tag scale=2`` of ``dps scale=2``."""
    name, place = re.fullmatch(r"(.*?)( \w+=\S+)?", arm, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{name}+tag{place or ''}"


def tag_changes(runs: Sequence[Arms]) -> pd.DataFrame:
    """The changes by ``+tag``, one row per ``(arm without it, run)``.

    ``fid`` relative, in percent; shares in points; errors in their unit; ``time_gap`` in training timesteps.
    """
    frame = values(runs)
    pairs = [arm for arm in runs[0] if with_tag_name(arm) in runs[0]]
    changed = {}
    for arm in pairs:
        without, with_tag = frame.loc[arm], frame.loc[with_tag_name(arm)]
        for metric, how in shown(runs).items():
            relative = 100 * (with_tag[metric] / without[metric] - 1)
            changed[arm, metric] = relative if how.relative else how.factor * (with_tag[metric] - without[metric])
    if not changed:
        return frame.iloc[:0]
    stacked = pd.DataFrame(changed).rename_axis(columns=["arm", "metric"])
    return stacked.stack("arm").swaplevel().reindex(pairs, level="arm")[list(shown(runs))]


def summary(frame: pd.DataFrame) -> Summary:
    """Mean and standard deviation (n - 1) over the runs, by arm and metric; metrics that are NaN are left out."""
    grouped = frame.groupby("arm", sort=False)
    mean, spread = grouped.mean(), grouped.std()
    return {
        arm: {name: (mean.at[arm, name], spread.at[arm, name]) for name in row.index if pd.notna(row[name])}
        for arm, row in mean.iterrows()
    }


def aggregate(runs: Sequence[Arms]) -> Summary:
    """``summary`` of the arms themselves."""
    return summary(values(runs))


def changes(runs: Sequence[Arms]) -> Summary:
    """``summary`` of the paired changes by TAG."""
    return summary(tag_changes(runs))


def differences(runs: Sequence[Arms]) -> dict[str, dict[str, list[float]]]:
    """The changes by TAG in each run, by arm and metric."""
    frame = tag_changes(runs)
    return {
        arm: {name: column.tolist() for name, column in frame.loc[arm].items() if column.notna().all()}
        for arm in frame.index.unique("arm")
    }


def tables(runs: Sequence[Arms], seeds: Sequence[int]) -> list[list[list[str]]]:
    """The arms, and the changes by TAG, if any, over all seeds and in each: tables of rows of cells, headings first."""
    columns = shown(runs)
    arms = [["arm", *(how.heading for how in columns.values())]]
    for arm, figures in aggregate(runs).items():
        arms.append([arm, *(_cell(figures.get(name), how.digits, how.factor) for name, how in columns.items())])
    tag = [["what TAG changes", *(how.change for how in columns.values())]]
    each = differences(runs)
    for arm, figures in changes(runs).items():
        tag.append([arm, *(_cell(figures.get(name), how.digits, signed=True) for name, how in columns.items())])
        for k, seed in enumerate(seeds):
            found = [(each[arm].get(name), how.digits) for name, how in columns.items()]
            tag.append([f"{arm}, seed {seed}", *(ABSENT if v is None else f"{v[k]:+.{n}f}" for v, n in found)])
    return [arms, tag] if len(tag) > 1 else [arms]


def frontier_tables(frontier: Frontier, seeds: Sequence[int]) -> list[list[list[str]]]:
    """Merits of the curves over all seeds, and values chosen on the first seed with their figures on the others.

    Sweeps without guidance have no alignment, and so neither table unless they are compared at equal time.
    """
    if not frontier.guided:
        return [frontier.table()] if frontier.merits else []
    alignment, quality = frontier.measures
    least = frontier.common_alignment(seeds[0])
    others = ", ".join(map(str, seeds[1:]))
    heading = f"chosen on seed {seeds[0]} for {alignment} {least:.3g}"
    rows = [[heading, "value", f"{alignment} on seeds {others}", f"{quality} on seeds {others}"]]
    for choice in frontier.reported(least, seeds[0]):
        figures = [_mean_and_spread(found) for found in (choice.alignment, choice.quality)]
        rows.append([choice.curve, ABSENT if choice.value is None else f"{choice.value:g}", *figures])
    return [frontier.table(), rows]


def markdown(blocks_of_rows: Sequence[list[list[str]]]) -> str:
    """Tables as Markdown."""
    blocks = []
    for heading, *rows in blocks_of_rows:
        lines = [heading, ["---"] * len(heading), *rows]
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(blocks)


def run_seed(verb: str, config: str, seed: int, folder: Path, further: Sequence[str]) -> None:
    """Train and sample, or sample only, with every seed of the run set to ``seed``.

    Raises:
        RuntimeError: If the run fails, unless it is only that ``validate`` found arms which failed.
    """
    seeds = ["seed_everything", "data.init_args.seed", "sampling.seed"]
    if has_seeded_module(config):
        seeds.insert(1, "model.init_args.seed")
    command = [
        *(sys.executable, "-m", "tag_lightning", verb, f"--config={config}", *further),
        # After ``further``, in which another configuration may name a folder of its own.
        *(f"--{name}={seed}" for name in seeds),
        f"--trainer.default_root_dir={folder}",
    ]
    print("python", *command[1:], file=sys.stderr, flush=True)
    # Its output is progress; standard output is for the tables.
    code = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    # `validate` writes all figures before it ends in an error that tells of a failed arm.
    if code and not (verb == "validate" and failed_arms(folder / "results.json")):
        raise RuntimeError(f"the run with seed {seed} failed with exit code {code}; its output is above")


def has_seeded_module(config: str) -> bool:
    """Whether the module of a configuration has a seed of its own; ``ComparisonModule`` has none."""
    module = merged_with_bases(Path(config_file(config))).get("model", {})
    return str(module.get("class_path")).rpartition(".")[2] != ComparisonModule.__name__


def failed_arms(path: Path) -> tuple[str, ...]:
    """Names of the arms that failed in a run; none if it left no results."""
    return SeedResults.read(path).failed if path.is_file() else ()


def read_run(path: Path, seed: int) -> SeedResults:
    """The results of one run.

    Raises:
        FileNotFoundError: If the run left none.
        ValueError: If the file holds no results, or those of another seed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the run with seed {seed} drew no samples; see sampling.every_n_epochs"
        )
    run = SeedResults.read(path)
    if run.seed != seed:
        raise ValueError(f"{path} was made with seed {run.seed}, not {seed}; remove it and run seed {seed} again")
    return run


def arms_of(run: SeedResults) -> Arms:
    """The figures of one run, those of held-out real data first where it has them; a failed arm has none."""
    return ({REAL_DATA: run.reference} if run.reference else {}) | run.figures


def require_same_arms(runs: Sequence[Arms], paths: Sequence[Path]) -> None:
    """Check that the runs can be compared.

    Raises:
        ValueError: Names the first run whose arms are not those of the first.
    """
    for run, path in zip(runs, paths, strict=True):
        if run.keys() != runs[0].keys():
            raise ValueError(
                f"{path} has the arms {', '.join(run)} but {paths[0]} has {', '.join(runs[0])}; "
                "run every seed with the same configuration, without --resume"
            )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a run that fails or left nothing ends it in one line and exit code 1.

    Args:
        args: Arguments; None takes those of the process.
    """
    given = list(sys.argv[1:] if args is None else args)
    cut = given.index("--") if "--" in given else len(given)
    description, epilog = str(__doc__).split("\n\n")
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    parser.add_argument("--config", default="configs/digits/time_predictor.yaml")
    parser.add_argument("--verb", choices=["fit", "validate"], default="fit", help="validate samples without training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/digits/seeds"))
    parser.add_argument("--resume", action="store_true", help="keep the results of seeds that are done")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    arguments = parser.parse_args(given[:cut])
    if len(set(arguments.seeds)) < max(2, len(arguments.seeds)):
        parser.error("a spread needs at least 2 seeds, all different")
    paths = [arguments.out / str(seed) / "results.json" for seed in arguments.seeds]
    results: list[SeedResults] = []
    try:
        for seed, path in zip(arguments.seeds, paths, strict=True):
            if not (arguments.resume and path.is_file()):
                path.unlink(missing_ok=True)  # or a run without samples would pass for the one before it
                run_seed(arguments.verb, arguments.config, seed, path.parent, given[cut + 1 :])
            results.append(read_run(path, seed))
        runs = [arms_of(run) for run in results]
        require_same_arms(runs, paths)
        found = {"seeds": arguments.seeds, "arms": aggregate(runs), "tag": changes(runs)}
        write_results(arguments.out / "summary.json", found | {"tag_by_seed": differences(runs)})
        shown_tables = tables(runs, arguments.seeds)
        if results[0].points and Measures.of(results[0].figures) is not None:
            frontier = Frontier(results)
            frontier.save(arguments.out)
            shown_tables += frontier_tables(frontier, arguments.seeds)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if arguments.markdown:
        print(markdown(shown_tables))
        return
    for heading, *rows in shown_tables:
        drawn = Table()
        for column in heading:
            drawn.add_column(column, justify="left" if column == heading[0] else "right")
        for cells in rows:
            drawn.add_row(*cells)
        Console(width=max(100, 14 * len(heading))).print(drawn)


def _mean_and_spread(found: Sequence[float | None]) -> str:
    series = pd.Series(found, dtype=float).dropna()
    if series.empty:
        return ABSENT
    return f"{series.mean():.3g}" if len(series) == 1 else f"{series.mean():.3g} ± {series.std():.2g}"


def _cell(figures: tuple[float, float] | None, digits: int, factor: float = 1, signed: bool = False) -> str:
    if figures is None:
        return ABSENT
    mean, spread = figures
    return f"{factor * mean:{'+' if signed else ''}.{digits}f} ± {factor * spread:.{digits}f}"


if __name__ == "__main__":
    main()
