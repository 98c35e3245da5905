"""Progress: what, how far, how long; bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from tqdm import tqdm


class PlainProgress(Callback):
    """One line every few seconds with the step, the loss and the time left, for logs and batch systems.

    Args:
        every_seconds: Time between two lines.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
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


class SamplingProgress:
    """Progress of one arm: a bar on a terminal, one line at the end elsewhere; silent on other processes.

    Args:
        name: The arm.
        position: For example ``2 of 5``.
        num_samples: Samples to come.
        visible: Whether to show anything.
    """

    def __init__(self, name: str, position: str, num_samples: int, visible: bool) -> None:
        self._text = f"sampling {name} (arm {position})"
        self._num_samples = num_samples
        self._line = visible and not sys.stdout.isatty()
        self._started = time.monotonic()
        self._bar = tqdm(
            total=num_samples, desc=self._text, unit="sample", leave=False, disable=not visible or self._line
        )

    def advance(self, num_samples: int) -> None:
        """Note that so many samples are done."""
        self._bar.update(num_samples)

    def close(self) -> None:
        """Take the bar away, or print the line."""
        self._bar.close()
        if self._line:
            seconds = time.monotonic() - self._started
            print(f"{self._text}: {self._num_samples} samples in {seconds:.1f} s", flush=True)


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
