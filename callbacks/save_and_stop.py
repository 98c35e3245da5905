"""The end of a training by SIGTERM or Ctrl-C, with a checkpoint of its last step."""

from __future__ import annotations

import signal
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from tag_lightning.interruption import interruption
from tag_lightning.last_checkpoint import save_last

# Within these, a stop waits for the optimizer step, so that no accumulated gradient is lost.
_ACCUMULATION_SECONDS = 8.0


class SaveAndStop(Checkpoint):
    """Ends ``fit`` with a checkpoint of this moment after a SIGTERM or Ctrl-C, from which it goes on bit for bit.

    A ``Checkpoint``, because Lightning calls these last: when averaged weights are up to date.
    """

    def __init__(self) -> None:
        self._saved = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        interruption.take_over()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        interruption.take_over()
        launcher = trainer.strategy.launcher
        interruption.launcher = launcher if isinstance(launcher, _SubprocessScriptLauncher) else None
        interruption.held, self._saved = True, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        interruption.trained = True
        if self._saved or not self._asked(trainer):
            return
        loop: Any = trainer.fit_loop.epoch_loop
        if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            return  # `on_validation_start` follows
        if loop._should_accumulate() and time.monotonic() - interruption.since < _ACCUMULATION_SECONDS:
            return
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step == trainer.max_steps or (last_epoch and loop._is_training_done):
            return  # nothing is left but to end
        # The step's losses are logged after this hook.
        interruption.checkpoint, self._saved = save_last(trainer), True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._saved:
            interruption.stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved:
            interruption.stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit" and self._asked(trainer):
            self._stop_validating(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or not self._asked(trainer):
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                # Swaps the trained weights back in; a checkpoint would hold them and their average exchanged.
                callback.on_validation_epoch_end(trainer, pl_module)
        self._stop_validating(trainer)

    def _asked(self, trainer: Trainer) -> bool:
        """Return whether any process got a signal, so that all of them stop at the same step."""
        asked = interruption.signum is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
            interruption.signum = interruption.signum or (signal.SIGTERM if asked else None)
        return asked

    def _stop_validating(self, trainer: Trainer) -> None:
        interruption.checkpoint = save_last(trainer, before_validation=True)
        interruption.stop()
