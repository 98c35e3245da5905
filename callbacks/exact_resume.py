"""Counting epochs right where a run goes on."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer


class ExactResume(Callback):
    """Makes a continued ``fit`` see every batch of every epoch once, wherever and by whatever limit it was stopped.

    What Lightning writes at the end of ``fit`` calls an epoch that ``max_steps`` cut short a finished one, so
    that its other batches would be left out; with ``max_steps`` set it goes through the end of a finished epoch a
    second time, so that ``max_epochs`` would be reached too early; and from the last batch of an epoch it goes on
    to the next without counting it.
    """

    def __init__(self) -> None:
        self._between_epochs = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"].get("fit_loop")
        if not loops:
            return
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        current = epochs["current"]
        if not current["ready"] == current["started"] == current["processed"] > 0:
            return
        self._between_epochs = batches["is_last_batch"]
        for counts in epochs.values():
            counts["processed"] = counts["completed"] = counts["started"] - (not self._between_epochs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop: Any = trainer.fit_loop
        if self._between_epochs:
            loop.epoch_loop.restarting = False
        if loop.epoch_progress.current.ready == loop.epoch_progress.current.processed:
            loop.reset_restart_stage()
        self._between_epochs = False
