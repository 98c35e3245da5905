"""Progress: what, how far, how long; bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from tqdm import tqdm

_T = TypeVar("_T")


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


class LongProgress:
    """Progress of one long job outside the training: a bar on a terminal, elsewhere a line every few seconds.

    Args:
        text: What is being done.
        total: How much there is to do.
        unit: Of ``total``, in the singular.
        visible: Whether to show anything.
        always: Whether a line at the end tells what it took, even where it took no time.
        every_seconds: Time between two lines.
    """

    def __init__(
        self, text: str, total: int, unit: str, visible: bool, always: bool = True, every_seconds: float = 10.0
    ) -> None:
        self._text = text
        self._total = total
        self._units = f"{unit}es" if unit.endswith("ch") else f"{unit}s"
        self._line = visible and not sys.stdout.isatty()
        self._always = always
        self._every_seconds = every_seconds
        self._started = self._printed = time.monotonic()
        self._done = 0.0
        self._bar = tqdm(total=total, desc=text, unit=unit, leave=False, disable=not visible or self._line)

    def advance(self, amount: float) -> None:
        """Note that so much more is done; a part of a unit counts."""
        self._done += amount
        # Whole units are shown; rounding first, since the parts of one need not add up to it exactly.
        done = min(self._total, int(self._done + 1e-6))
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if not self._line or now - self._printed < self._every_seconds:
            return
        self._printed = now
        left = (now - self._started) / self._done * max(0.0, self._total - self._done)
        print(f"{self._text}: {done} of {self._total} {self._units}, about {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Take the bar away, or print the last line."""
        self._bar.close()
        if self._line and (self._always or self._printed > self._started):
            seconds = time.monotonic() - self._started
            print(f"{self._text}: {self._total} {self._units} in {seconds:.1f} s", flush=True)


def tracked(batches: Iterable[_T], text: str, visible: bool) -> Iterator[_T]:
    """The same batches, with the progress of whoever takes them; nothing is shown where nobody does.

    Args:
        batches: With a length.
        text: What is done with them.
        visible: Whether to show anything.
    """
    progress = LongProgress(text, len(batches), "batch", visible, always=False)  # type: ignore[arg-type]
    for batch in batches:
        yield batch
        progress.advance(1)
    progress.close()


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
