"""Everything a sampling leaves behind: table, results file, TensorBoard, pictures, curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tag_lightning.callbacks.figures import figure_pixels, save_png, time_gap_curves
from tag_lightning.callbacks.results import print_results, results_payload, write_results
from tag_lightning.callbacks.task import ArmResult
from torch import Tensor

REAL_DATA = "(real data)"


class Report:
    """Writes to the run's folder, to the terminal and to TensorBoard, on one process only.

    Args:
        folder: The run's folder.
        boards: TensorBoard writers.
        step: Global step at which TensorBoard shows the pictures.
        active: Whether this process writes.
        trial: Whether only the table is of interest, and no file must be touched.
    """

    def __init__(self, folder: Path, boards: list[Any], step: int, active: bool, trial: bool = False) -> None:
        self.folder = folder
        self.boards = boards
        self.step = step
        self.active = active
        self.trial = trial

    @classmethod
    def of(cls, trainer: Trainer) -> Report:
        """The report of this moment of a run."""
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        return cls(Path(trainer.default_root_dir), boards, trainer.global_step, trainer.is_global_zero, trial)

    def write_figures(self, results: Mapping[str, ArmResult], context: dict[str, Any]) -> None:
        """Report the numbers of all arms, before anything else can fail.

        Args:
            results: By arm.
            context: Further entries of the results file; ``seed``, ``config`` and the weights' ``global_step``
                among them. ``reference`` are figures of real data, which head the table.
        """
        if not self.active:
            return
        figures = {name: result.figures for name, result in results.items()}
        reference = {REAL_DATA: context["reference"]} if context.get("reference") else {}
        print_results(reference | figures, title=f"Guided sampling at step {context['global_step']}")
        if self.trial:
            return
        context = dict(context)
        payload = results_payload(figures, context.pop("seed"), context.pop("config")) | context
        write_results(self.folder / "results.json", payload)
        self._time_gaps(results)

    def write_pictures(self, pictures: Mapping[str, Tensor]) -> None:
        """Write pictures, bytes ``[3, H, W]`` by name; a slash in it makes a folder."""
        if not self.active or self.trial:
            return
        for name, pixels in pictures.items():
            self._picture(name, pixels, self.folder / f"{name}.png")

    def write_samples(
        self, name: str, write: Callable[[Path, str], list[Path]], pictures: Mapping[str, Tensor]
    ) -> None:
        """Write the samples of one arm into the folder ``samples``, and what pictures there are.

        Args:
            name: The arm.
            write: Given a folder and a name, writes the files and returns them.
            pictures: As for ``write``.
        """
        if not self.active or self.trial:
            return
        written = ", ".join(str(path) for path in write(self.folder / "samples", name))
        for picture, pixels in pictures.items():
            save_png(pixels, self.folder / f"{picture}.png")
        print(f"The samples are in {written}, pictures in {self.folder}")

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
            # Beside the scalars of this moment: Lightning numbers them by the step just taken, from 0.
            board.add_image(tag, pixels, max(0, self.step - 1))
