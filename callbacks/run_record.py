"""The start of a run's record, once all checks have passed: TensorBoard events and configuration."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from tag_lightning.run_logger import RunLogger


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
