"""Progress of long work: what, how far, how long; a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_T = TypeVar("_T")


class Progress:
    """Progress of one long job: a bar on a terminal, elsewhere a line every few seconds.

    Args:
        text: Description of the job.
        total: Number of units.
        unit: Name of the unit, singular.
        visible: Show anything at all.
        always: Print a closing line with the time taken even if the job was too short for progress lines.
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
        """Add completed units; fractions count."""
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
        """Remove the bar, or print the closing line."""
        self._bar.close()
        if self._line and (self._always or self._printed > self._started):
            seconds = time.monotonic() - self._started
            print(f"{self._text}: {self._total} {self._units} in {seconds:.1f} s", flush=True)


def tracked(
    items: Iterable[_T], text: str, unit: str = "batch", total: int | None = None, visible: bool = True
) -> Iterator[_T]:
    """Yield ``items`` and show how far their consumer is.

    Args:
        items: Anything iterable.
        text: Description of the job.
        unit: Name of one item, singular.
        total: Number of items; None takes ``len(items)``.
        visible: Show anything at all.
    """
    count = len(items) if total is None else total  # type: ignore[arg-type]
    progress = Progress(text, count, unit, visible, always=False)
    for item in items:
        yield item
        progress.advance(1)
    progress.close()
