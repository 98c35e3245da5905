"""What a run writes of itself: TensorBoard events and its configuration, once there is a run to speak of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment


class RunLogger(TensorBoardLogger):
    """TensorBoard events in the run's folder, each step of a curve once however often the run is taken up.

    Nothing is written before ``start``: Lightning asks for the writer, which creates a file, before anything
    has been checked.

    Args:
        folder: The run's folder.
        part: Folder within it, for what is no part of the training curves.
    """

    def __init__(self, folder: Path, part: str | None = None) -> None:
        super().__init__(folder.parent, name=folder.name, version="", default_hp_metric=False, sub_dir=part)
        self._started = False

    def start(self, step: int) -> None:
        """Write from now on; what earlier runs in this folder wrote at ``step`` or later is no longer shown."""
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
    """Starts the ``RunLogger`` when all checks are passed and a checkpoint's step is known."""

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
    """Saves the configuration as Lightning does, but leaves an earlier run's alone until all checks are passed.

    With ``trainer.fast_dev_run``, which is no run to keep, nothing is saved.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().setup(trainer, pl_module, str(trainer.state.fn))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)
