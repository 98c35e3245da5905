"""Progress of the training: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar


class PlainProgress(Callback):
    """One line every few seconds with the step, the loss and the time left, for logs and batch systems.

    Args:
        every_seconds: Time between two lines.

    Raises:
        ValueError: If ``every_seconds`` is below 0.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds must be at least 0, got {every_seconds}")
        self.every_seconds = every_seconds
        self._started = self._printed = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._printed = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._printed < self.every_seconds:
            return
        self._printed = now
        done, total = trainer.global_step, trainer.estimated_stepping_batches
        left = (now - self._started) / max(1, done - self._first_step) * (total - done)
        loss = trainer.progress_bar_metrics.get("train/loss", float("nan"))
        print(f"step {done} of {total:.0f}, train/loss {loss:.4g}, about {left:.0f} s left", flush=True)


def progress_bars(trainer_config: Mapping[str, Any]) -> list[Callback]:
    """The progress callback that suits the terminal, or none where the configuration brings its own."""
    given = trainer_config.get("callbacks") or []
    given = given if isinstance(given, list) else [given]
    unwanted = trainer_config.get("enable_progress_bar") is False
    if unwanted or any(isinstance(callback, ProgressBar) for callback in given):
        return []
    return [TQDMProgressBar()] if sys.stdout.isatty() else [PlainProgress(), _SilentBar()]


class _SilentBar(ProgressBar):
    """Stands in for Lightning's own bar, which prints its frames into logs; keeps the metrics it collects."""

    def disable(self) -> None:
        """Nothing is shown anyway."""

    def enable(self) -> None:
        """Nothing is shown anyway."""
