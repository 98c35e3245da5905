"""The record of a run: TensorBoard events and configuration, written once all checks have passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment


class RunLogger(TensorBoardLogger):
    """TensorBoard events in the run's folder; each step of a curve appears once, however often the run is resumed.

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

    @property
    def experiment(self) -> Any:
        return super().experiment if self._started else DummyExperiment()

    def save(self) -> None:
        if self._started:
            super().save()


class StartRunLogger(Callback):
    """Starts the ``RunLogger`` when all checks have passed and a checkpoint's step is known."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.start(trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.on_train_start(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)


class SaveCheckedConfig(SaveConfigCallback):
    """Saves the configuration as Lightning does, but keeps an earlier run's until all checks have passed.

    With ``trainer.fast_dev_run`` nothing is saved.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().setup(trainer, pl_module, str(trainer.state.fn))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.on_train_start(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)
