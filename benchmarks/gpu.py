"""Everything that needs a GPU, in the order of its value, within the time given.

    python -m benchmarks.gpu --minutes 40 --out runs/gpu

1. reverse steps in float32 and bfloat16, eager and compiled (``benchmarks.precision``);
2. the networks of ``configs/cifar10`` at their published size, each for a share of the time, and the default arms;
3. the paper's experiments on them: few steps, corruption, training-free guidance;
4. the networks of ``configs/qm9``, guidance towards its properties, and the paper's table of it.

The same command goes on where the last one stopped: finished jobs are skipped, trainings and samplings resume. A job
that fails is reported, and those that need it are left out. ``report.json`` in the folder has the state of every job,
``results`` the figures. ``--cifar10`` takes the authors' files or an image folder, by default ``data/cifar10``,
``--qm9`` a folder of QM9, by default ``data/qm9``; default folders that do not exist are left out. If QM9's folder has
a ``qm9_test_edm.npz``, the molecules that it lists are held out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tag_lightning.files import replacing

# Shares of the time that is left, relative to those of the jobs after it.
_SHARES = {"guide": 2, "judge": 2, "denoiser": 10, "time_gap_predictor": 2, "noise_level": 1.5, "time_predictor": 4}
_TABLES = {
    "cifar10": ("experiments/few_steps", "experiments/corruption", "experiments/guidance"),
    "qm9": ("qm9/published",),
}
_TEST_MOLECULES = "qm9_test_edm.npz"
_SECONDS_TO_SAVE = 30


@dataclass(frozen=True)
class Job:
    """A command and its place in the plan.

    Attributes:
        name: Shown, and the key in the report.
        share: Relative share of the time that is left.
        command: Arguments of Python. ``{limit}`` stands for the seconds as Lightning's ``max_time``, DD:HH:MM:SS.
        made: The file whose existence says that the job is finished.
        results: Its figures, copied to ``results/<name>.json``; None for a job that makes networks.
        needs: Names of the jobs that must be finished before.
    """

    name: str
    share: float
    command: Sequence[str]
    made: Path
    results: Path | None = None
    needs: Sequence[str] = field(default=())


def plan(out: Path, data: Mapping[str, Path], layers: Sequence[str], modes: Sequence[str], quick: bool) -> list[Job]:
    """All jobs in the order of their value.

    Args:
        out: Folder of everything.
        data: Folders of ``cifar10`` and ``qm9``, as far as they are there.
        layers: Configurations over every stage.
        modes: Modes of ``benchmarks.precision``; none leaves it out.
        quick: Measure the speed of a small network.
    """
    speed = out / "speed.json"
    command = ["-m", "benchmarks.precision", "--out", str(speed), "--modes", *modes, *(["--quick"] if quick else [])]
    jobs = [Job("speed", 3, command, speed, speed)] if modes else []
    for name, root in data.items():
        jobs += _stages(name, root, out, layers)
        jobs += [_table(name, table, out) for table in _TABLES[name]]
    return jobs


def _stages(name: str, root: Path, out: Path, layers: Sequence[str]) -> list[Job]:
    folder, jobs = out / name, list[Job]()
    stages = [stage for stage in _SHARES if stage != "noise_level" or name == "cifar10"]
    over = ["cifar10/image_folder"] if name == "cifar10" and (root / "train").is_dir() else []
    for stage in stages:
        final = stage == "time_predictor"
        command = ["-m", "tag_lightning", "stages", f"--config={name}", *(f"--config={o}" for o in (*over, *layers))]
        command += [f"--out={folder}", "--only", stage, f"--data.root={root}", "--trainer.max_time={limit}"]
        if name == "qm9" and (root / _TEST_MOLECULES).is_file():
            command.append(f"--data.test_molecules={root / _TEST_MOLECULES}")
        needs = [f"{name} {other}" for other in stages[:-1]] if final else []
        if stage == "denoiser":
            needs = [f"{name} judge"]
        results = folder / stage / "results.json" if final else None
        made = results or folder / stage / "pretrained" / "config.json"
        jobs.append(Job(f"{name} {stage}", _SHARES[stage], command, made, results, needs))
    return jobs


def _table(name: str, table: str, out: Path) -> Job:
    trained, folder = out / name / "time_predictor", out / "tables" / table
    command = ["-m", "tag_lightning", "validate", f"--config={trained / 'config.yaml'}", f"--config={table}"]
    if name == "cifar10":
        command += [f"--ckpt_path={trained / 'pretrained'}"]
        command += [f"--sampling.noise_level={out / name / 'noise_level' / 'pretrained'}"]
    else:
        command += [f"--sampling.predictor={trained / 'pretrained'}"]
    command += [f"--trainer.default_root_dir={folder}"]
    results = folder / "results.json"
    return Job(f"{name} {table.rpartition('/')[2]}", 3, command, results, results, [f"{name} time_predictor"])


def run_all(jobs: Sequence[Job], seconds: float, out: Path) -> dict[str, Any]:
    """Run the jobs that are not finished, one after another, and write the report.

    Args:
        jobs: In the order of their value.
        seconds: Time for all of them. A job that is not done at the end of its share may go on into the shares of the
            later ones; at the end of all the time it is told to save.
        out: Folder of the report.

    Returns:
        The report: the state of every job, ``finished``, ``unfinished``, ``failed`` or ``left out``, and its seconds.
    """
    end = time.monotonic() + seconds
    report: dict[str, Any] = {}
    for place, job in enumerate(jobs):
        left = end - time.monotonic()
        missing = [name for name in job.needs if report.get(name, {}).get("state") != "finished"]
        if job.made.is_file():
            report[job.name] = {"state": "finished"}
        elif missing:
            report[job.name] = {"state": "left out", "why": f"needs {', '.join(missing)}"}
        elif left < _SECONDS_TO_SAVE:
            report[job.name] = {"state": "left out", "why": "the time was over"}
        else:
            ahead = sum(other.share for other in jobs[place:] if not other.made.is_file())
            report[job.name] = _run(job, left * job.share / ahead, left)
        if job.results is not None and job.results.is_file():
            (out / "results").mkdir(parents=True, exist_ok=True)
            shutil.copy(job.results, out / "results" / f"{job.name.replace(' ', '_')}.json")
        with replacing(out / "report.json") as temporary:
            temporary.write_text(json.dumps(report, indent=2))
    return report


def _clock(seconds: float) -> str:
    """Whole seconds as Lightning's ``max_time`` has them, ``DD:HH:MM:SS``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "{:02}:{:02}:{:02}:{:02}".format(*divmod(hours, 24), minutes, seconds)


def _run(job: Job, share: float, left: float) -> dict[str, Any]:
    limit = _clock(max(share, 1))
    command = [sys.executable, *(word.replace("{limit}", limit) for word in job.command)]
    print(f"{job.name}: {share / 60:.1f} of {left / 60:.1f} minutes left", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(command)
    try:
        code = process.wait(timeout=left - _SECONDS_TO_SAVE / 2)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=_SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    taken = {"seconds": round(time.monotonic() - started, 1)}
    if job.made.is_file():
        return {"state": "finished"} | taken
    stopped = code in (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)
    return {"state": "unfinished" if stopped else "failed", "exit_code": code} | taken


def main(args: list[str] | None = None) -> None:
    """Run the command line; ends with 1 if a job failed.

    Args:
        args: Arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10, by default data/cifar10")
    parser.add_argument("--qm9", type=Path, help="folder of QM9, by default data/qm9")
    parser.add_argument("--config", action="append", default=[], help="configuration over every stage, such as bf16")
    parser.add_argument("--modes", nargs="*", default=["float32", "bfloat16", "compiled float32", "compiled bfloat16"])
    parser.add_argument("--quick", action="store_true", help="measure the speed of a small network")
    arguments = parser.parse_args(args)
    data = {}
    for name in _TABLES:
        given, usual = getattr(arguments, name), Path("data") / name
        if given is not None and not given.is_dir():
            parser.error(f"--{name}: the folder {given} does not exist")
        if given is not None or usual.is_dir():
            data[name] = given or usual
        else:
            print(f"{name} is left out: there is no {usual}; name its folder by --{name}", file=sys.stderr)
    if arguments.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {arguments.minutes}")
    jobs = plan(arguments.out, data, arguments.config, arguments.modes, arguments.quick)
    report = run_all(jobs, 60 * arguments.minutes, arguments.out)
    for name, row in report.items():
        print(f"{name:28} {row['state']:11} {row.get('seconds', '')} {row.get('why', '')}".rstrip())
    print(f"figures in {arguments.out / 'results'}")
    if any(row["state"] == "failed" for row in report.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
