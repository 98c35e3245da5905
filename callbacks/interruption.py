"""SIGTERM and Ctrl-C: the training is saved before the process ends, and sampling ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from tag_lightning.callbacks.last_checkpoint import save_last

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# `timeout` and batch systems send a signal to the process and once more to its group.
_ECHO_SECONDS = 5.0
# Within these, a stop waits for the optimizer step, so that no accumulated gradient is lost.
_ACCUMULATION_SECONDS = 8.0


class Interrupted(BaseException):
    """The process is asked to end; not an ``Exception``, so that nothing takes it for a failure of its own.

    Attributes:
        signum: Number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interruption:
    """Turns SIGTERM and Ctrl-C into ``Interrupted``: at once, or while held, where the training can be saved.

    Attributes:
        signum: The signal that arrived, or None.
        held: True if the signal is only noted.
        trained: Training steps were taken that only a checkpoint keeps.
        checkpoint: Path and global step of the checkpoint that a stop leaves behind, or None.
        folder: The run's folder, whose configuration goes on from it.
        launcher: Lightning's launcher of the other processes, which get the signal too.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.signum: int | None = None
        self.held = self.trained = False
        self.checkpoint: tuple[Path, int] | None = None
        self.folder = Path()
        self.launcher: _SubprocessScriptLauncher | None = None
        self.since = self._raised_at = -float("inf")
        self._pid: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals in this block; only the main thread can."""
        self._reset()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
        self._pid = os.getpid()
        self.take_over()
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def message(self) -> str:
        """Return what a stop has left behind, and the way on, in one line."""
        assert self.signum is not None
        stopped = f"stopped by {signal.Signals(self.signum).name}"
        if self.checkpoint is not None:
            path, step = self.checkpoint
            command = f"python -m tag_lightning fit --config {self.folder / 'config.yaml'} --ckpt_path last"
            return f"{stopped}: the training up to step {step} is in {path}; to go on: {command}"
        if self.trained:
            return f"{stopped}: nothing is left of the training, because this run keeps no checkpoints"
        return f"{stopped} before there was anything to keep; to start again, repeat the command"

    def take_over(self) -> None:
        """Replace handlers that were set since: Lightning's ends ``fit`` without a checkpoint and with exit code 0."""
        if self._pid is not None:
            for signum in _SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let a signal end this block at once, since a checkpoint of the training is there already."""
        held, self.held = self.held, False
        try:
            if held and self.signum is not None:
                self.stop()
            yield
        finally:
            self.held = held

    def _handle(self, signum: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a forked worker of a DataLoader; the main process decides
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        again = self.signum is not None
        if not again:
            self.signum, self.since = signum, time.monotonic()
            if self.launcher is not None and signum == signal.SIGTERM:
                self.launcher.kill(signum)
        impatient = again and signum == signal.SIGINT and time.monotonic() - self.since > 1
        if impatient or (not self.held and time.monotonic() - self._raised_at > _ECHO_SECONDS):
            self.stop()

    def stop(self) -> NoReturn:
        """Raise ``Interrupted`` for the signal that arrived."""
        assert self.signum is not None
        self._raised_at = time.monotonic()
        raise Interrupted(self.signum)


interruption = Interruption()


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
