"""Everything a sampling leaves behind: table, results file, TensorBoard, pictures, curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from callbacks.arm_runner import ArmResult
from callbacks.figures import comparison_strip, figure_pixels, sample_grid, save_png, time_gap_curves
from callbacks.results import print_results, results_payload, write_results

_STRIP_COLUMNS = 4
_STRIP_SAMPLES = 16


class Report:
    """Writes to the run's folder, to the terminal and to TensorBoard, on one process only.

    Args:
        folder: The run's folder.
        boards: TensorBoard writers.
        step: Global step the figures belong to.
        active: Whether this process writes.
    """

    def __init__(self, folder: Path, boards: list[Any], step: int, active: bool) -> None:
        self.folder = folder
        self.boards = boards
        self.step = step
        self.active = active

    @classmethod
    def of(cls, trainer: Trainer) -> Report:
        """The report of this moment of a run."""
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        return cls(Path(trainer.default_root_dir), boards, trainer.global_step, trainer.is_global_zero)

    def write(self, results: Mapping[str, ArmResult], context: dict[str, Any]) -> None:
        """Report all arms.

        Args:
            results: By arm.
            context: Further entries of the results file; ``seed`` and ``config`` among them.
        """
        if not self.active:
            return
        figures = {name: result.figures for name, result in results.items()}
        print_results(figures, title=f"Guided sampling at step {self.step}")
        context = context | {"global_step": self.step}
        payload = results_payload(figures, context.pop("seed"), context.pop("config")) | context
        write_results(self.folder / "results.json", payload)
        for name, result in results.items():
            self._picture(f"{name}/samples", sample_grid(result.samples), self.folder / "samples" / f"{name}.png")
        strip = comparison_strip(
            {name: sample_grid(result.samples[:_STRIP_SAMPLES], _STRIP_COLUMNS) for name, result in results.items()}
        )
        self._picture("arms", figure_pixels(strip), self.folder / "arms.png")
        self._time_gaps(results)

    def write_samples(self, name: str, samples: Tensor, num_shown: int) -> None:
        """Write the samples of one arm as ``samples/<arm>.npz`` and, the first of them, as a picture."""
        if not self.active:
            return
        folder = self.folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.npz"
        np.savez_compressed(temporary, samples=samples.numpy())
        temporary.replace(folder / f"{name}.npz")
        save_png(sample_grid(samples[:num_shown]), folder / f"{name}.png")
        print(f"{len(samples)} samples in {folder / name}.npz, a picture in {folder / name}.png")

    def _time_gaps(self, results: Mapping[str, ArmResult]) -> None:
        curves = {n: (r.timesteps, r.gaps.numpy()) for n, r in results.items() if r.gaps is not None}
        if not curves:
            return
        self._picture("time_gap", figure_pixels(time_gap_curves(curves)), self.folder / "time_gap.png")
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(["arm", "timestep", "time_gap"])
        for name, (timesteps, gaps) in curves.items():
            rows.writerows([name, t, float(gap)] for t, gap in zip(timesteps, gaps, strict=True))
        (self.folder / "time_gap.csv").write_text(text.getvalue())

    def _picture(self, tag: str, pixels: Tensor, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(pixels, path)
        for board in self.boards:
            board.add_image(tag, pixels, self.step)
