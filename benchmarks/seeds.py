"""Run the main job with several seeds and print mean and spread: ``python -m benchmarks.seeds --seeds 0 1 2``."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.results import write_results

Arms = Mapping[str, Mapping[str, float]]
_METRICS = ("fid", "accuracy", "time_gap")


def aggregate(runs: Sequence[Arms]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation (n - 1) over runs, by arm and metric.

    Args:
        runs: At least two, each ``{arm: {metric: value}}`` with the same arms.
    """
    return {
        arm: {
            metric: _mean_and_spread([run[arm][metric] for run in runs])
            for metric in _METRICS
            if all(run[arm].get(metric) is not None for run in runs)
        }
        for arm in runs[0]
    }


def changes(runs: Sequence[Arms]) -> dict[str, dict[str, tuple[float, float]]]:
    """What ``+tag`` changes, by the arm it is added to.

    ``fid`` relative, in percent; ``accuracy`` in points; ``time_gap`` in training timesteps. Mean and standard
    deviation of the paired differences.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for arm in runs[0]:
        if f"{arm}+tag" not in runs[0]:
            continue
        pairs = [(run[arm], run[f"{arm}+tag"]) for run in runs]
        found[arm] = {
            "fid": _mean_and_spread([100 * (b["fid"] / a["fid"] - 1) for a, b in pairs]),
            "accuracy": _mean_and_spread([100 * (b["accuracy"] - a["accuracy"]) for a, b in pairs]),
            "time_gap": _mean_and_spread([b["time_gap"] - a["time_gap"] for a, b in pairs]),
        }
    return found


def markdown(runs: Sequence[Arms]) -> str:
    """Both as Markdown tables."""
    lines = ["| arm | FID | accuracy % | Time-Gap |", "|---|---|---|---|"]
    for arm, figures in aggregate(runs).items():
        (fid, fid_spread), (accuracy, accuracy_spread) = figures["fid"], figures["accuracy"]
        cells = [_cell(fid, fid_spread), _cell(100 * accuracy, 100 * accuracy_spread), _cell(*figures["time_gap"])]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", "| what TAG changes | FID, % | accuracy, points | Time-Gap |", "|---|---|---|---|"]
    for arm, figures in changes(runs).items():
        lines.append(f"| {arm} | {' | '.join(_cell(*figures[m], signed=True) for m in _METRICS)} |")
    return "\n".join(lines)


def run_seed(config: str, seed: int, folder: Path, further: Sequence[str]) -> None:
    """Train and sample with every seed of the run set to ``seed``.

    Raises:
        RuntimeError: If the run fails.
    """
    command = [
        *(sys.executable, "-m", "tag_lightning", "fit", f"--config={config}"),
        *(f"--seed_everything={seed}", f"--model.init_args.seed={seed}", f"--data.init_args.seed={seed}"),
        *(f"--sampling.seed={seed}", f"--trainer.default_root_dir={folder}", *further),
    ]
    print(" ".join(command[1:]), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError(f"the run with seed {seed} failed; its output is above")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/digits/time_predictor.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/digits/seeds"))
    parser.add_argument("--resume", action="store_true", help="keep the results of seeds that are done")
    arguments, further = parser.parse_known_args()
    if len(arguments.seeds) < 2:
        parser.error("a spread needs at least 2 seeds")
    runs: list[Arms] = []
    for seed in arguments.seeds:
        results = arguments.out / str(seed) / "results.json"
        if not (arguments.resume and results.is_file()):
            run_seed(arguments.config, seed, results.parent, further)
        runs.append(json.loads(results.read_text())["arms"])
    write_results(
        arguments.out / "summary.json", {"seeds": arguments.seeds, "arms": aggregate(runs), "tag": changes(runs)}
    )
    print(markdown(runs))


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values)


def _cell(mean: float, spread: float, signed: bool = False) -> str:
    return f"{mean:{'+' if signed else ''}.1f} ± {spread:.1f}"


if __name__ == "__main__":
    main()
