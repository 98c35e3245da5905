"""Correct counting of epochs in a resumed run."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer


class ExactResume(Callback):
    """Makes a resumed ``fit`` see every batch of every epoch once, wherever and by whatever limit it was stopped.

    The checkpoint that Lightning writes at the end of ``fit`` counts an epoch cut short by ``max_steps`` as finished,
    so its other batches would be skipped. With ``max_steps`` set, Lightning runs the end of a finished epoch a second
    time, so ``max_epochs`` would be reached too early. After the last batch of an epoch it starts the next epoch
    without counting it. And it skips the validation that was cut off after the last of ``max_steps``.
    """

    def __init__(self) -> None:
        self._between_epochs = False
        self._validation_due = False
        self._max_steps: int | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"].get("fit_loop")
        if not loops:
            return
        validation = loops["epoch_loop.val_loop.batch_progress"]["total"]
        self._validation_due = validation["started"] > validation["processed"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        current = epochs["current"]
        if not current["ready"] == current["started"] == current["processed"] > 0:
            return
        self._between_epochs = batches["is_last_batch"]
        for counts in epochs.values():
            counts["processed"] = counts["completed"] = counts["started"] - (not self._between_epochs)

    # After the optimizers, whose schedules ask for the number of steps, have been built.
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop: Any = trainer.fit_loop.epoch_loop
        if self._validation_due and loop.max_steps > 0:
            self._max_steps, loop.max_steps = loop.max_steps, loop.max_steps + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_max_steps(trainer)
        if self._validation_due:
            self._validation_due = False
            # The batch under way is repeated; nothing must say of later checkpoints that one is.
            total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
            total.ready = total.started = total.processed = total.completed

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._restore_max_steps(trainer)

    def _restore_max_steps(self, trainer: Trainer) -> None:
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop: Any = trainer.fit_loop
        if self._between_epochs:
            loop.epoch_loop.restarting = False
        if loop.epoch_progress.current.ready == loop.epoch_progress.current.processed:
            loop.reset_restart_stage()
        self._between_epochs = False
