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
from callbacks.figures import figure_pixels, save_png, time_gap_curves
from callbacks.results import print_results, results_payload, write_results


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

    def write(self, results: Mapping[str, ArmResult], pictures: Mapping[str, Tensor], context: dict[str, Any]) -> None:
        """Report all arms.

        Args:
            results: By arm.
            pictures: Bytes ``[3, H, W]`` by name; a slash in it makes a folder.
            context: Further entries of the results file; ``seed`` and ``config`` among them.
        """
        if not self.active:
            return
        figures = {name: result.figures for name, result in results.items()}
        print_results(figures, title=f"Guided sampling at step {self.step}")
        context = context | {"global_step": self.step}
        payload = results_payload(figures, context.pop("seed"), context.pop("config")) | context
        write_results(self.folder / "results.json", payload)
        for name, pixels in pictures.items():
            self._picture(name, pixels, self.folder / f"{name}.png")
        self._time_gaps(results)

    def write_samples(self, name: str, samples: Tensor, pictures: Mapping[str, Tensor]) -> None:
        """Write the samples of one arm as ``samples/<arm>.npz``, array ``samples``, and what pictures there are."""
        if not self.active:
            return
        folder = self.folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.npz"
        np.savez_compressed(temporary, samples=samples.numpy())
        temporary.replace(folder / f"{name}.npz")
        for picture, pixels in pictures.items():
            save_png(pixels, self.folder / f"{picture}.png")
        print(f"{len(samples)} samples are in {folder / name}.npz, pictures in {self.folder}")

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
