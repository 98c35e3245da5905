"""TensorBoard events of a run that may be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment


class RunLogger(TensorBoardLogger):
    """TensorBoard events in the run's folder; each step of a curve has one value, however often the run is resumed.

    Nothing is written before ``start``: Lightning asks for the writer, which creates a file, before anything
    has been checked.

    Args:
        folder: The run's folder.
        part: Subfolder for events that do not belong to the training curves.
    """

    def __init__(self, folder: Path, part: str | None = None) -> None:
        super().__init__(folder.parent, name=folder.name, version="", default_hp_metric=False, sub_dir=part)
        self._started = False

    def start(self, step: int) -> None:
        """Write from now on and hide the events of earlier runs in this folder at ``step`` or later."""
        if not self._started:
            self._started = True
            self._kwargs["purge_step"] = step

    def flush(self) -> None:
        """Write the events so far to disk, where a killed process would leave them."""
        if self._started:
            self.experiment.flush()

    @property
    def experiment(self) -> Any:
        return super().experiment if self._started else DummyExperiment()

    def save(self) -> None:
        if self._started:
            super().save()
