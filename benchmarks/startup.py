"""How long commands take to start, in CPU seconds and relative to ``import lightning`` alone.

    python -m benchmarks.startup --rounds 3

The commands take turns, so that whatever else the machine does meets all of them; the figures are medians. CPU seconds
are those of all threads of the process; on an idle machine with the files in memory, the clock shows no more.
``--against FOLDER`` measures another checkout in the same turns.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_VERB = ("-m", "tag_lightning")
_FIRST_STEP = "[{class_path: first_step.EndAfterFirstStep}]"
# In the folder that commands run in, where either checkout finds it.
_CALLBACK = """
import os
from lightning import Callback

class EndAfterFirstStep(Callback):
    def on_train_batch_end(self, *args):
        os._exit(0)
"""
COMMANDS = {
    "import torch": ("-c", "import torch"),
    "import lightning": ("-c", "import lightning"),
    "--help": (*_VERB, "--help"),
    "stages --help": (*_VERB, "stages", "--help"),
    "arms": (*_VERB, "arms"),
    "fit --help": (*_VERB, "fit", "--help"),
    "fit to its first step": (*_VERB, "fit", "--config=digits/time_predictor", f"--trainer.callbacks={_FIRST_STEP}"),
}
_UNIT = "import lightning"


def cpu_seconds(command: tuple[str, ...], checkout: Path, folder: Path) -> float:
    """CPU seconds of one command of Python, run in ``folder`` with the package of ``checkout``; NaN if it fails."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return math.nan
    return usage.ru_utime + usage.ru_stime


def measured(commands: dict[str, tuple[str, ...]], checkouts: list[Path], rounds: int) -> dict[str, list[float]]:
    """Median CPU seconds of every command, one figure per checkout."""
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in checkouts] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "first_step.py").write_text(_CALLBACK)
        for _ in range(rounds):
            for name, command in commands.items():
                for row, checkout in zip(seconds[name], checkouts, strict=True):
                    row.append(cpu_seconds(command, checkout, Path(folder)))
    return {name: [statistics.median(row) for row in rows] for name, rows in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    arguments = parser.parse_args()
    checkouts = [Path(__file__).parents[1], *([arguments.against.resolve()] if arguments.against else [])]
    figures = measured(COMMANDS, checkouts, arguments.rounds)
    unit = figures[_UNIT][0]
    for name, (here, *other) in figures.items():
        there = f"   {other[0]:6.2f} s there, {here / other[0]:.2f} of it" if other else ""
        print(f"{name:24}{here:6.2f} s   {here / unit:5.2f} of {_UNIT}{there}")


if __name__ == "__main__":
    main()
