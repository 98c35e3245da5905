"""Measurements on the way of samples: their Time-Gap, and the time that drawing takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import NonFiniteError, Step
from tag_lightning.metrics.time_gap import unchecked_time_gap


class StepObserver:
    """Measures the Time-Gap of the denoiser's inputs and the time that takes, and reports progress."""

    def __init__(
        self,
        predictor: nn.Module | None,
        timesteps: list[int],
        count: int,
        device: torch.device,
        advance: Callable[[], None],
    ) -> None:
        self._predictor, self._timesteps, self._device, self._advance = predictor, timesteps, device, advance
        self._stopwatch = Stopwatch(device)
        self._sums = torch.zeros(len(timesteps), count, dtype=torch.float64, device=device)
        self._visits = torch.zeros(len(timesteps), 1, dtype=torch.float64)

    @property
    def seconds(self) -> float:
        """Time taken by the measurement."""
        return self._stopwatch.seconds

    def observe(self, x: Tensor, step: Step) -> None:
        """See the samples ``x [B, ...]`` that the denoiser is about to see."""
        if not self._visits[step.index]:
            self._advance()
        self._visits[step.index] += 1
        if self._predictor is None:
            return
        with self._stopwatch.running(), torch.no_grad():
            logits = self._predictor(x, **step.space.inputs)
            lost = ~logits.isfinite().all(1)
            self._sums[step.index] += torch.where(lost, torch.nan, unchecked_time_gap(logits, step.timestep))

    def gaps(self, keep_nonfinite: bool) -> Tensor:
        """Mean over the visits of each step, ``[B, S]``; NaN for a sample that was lost by then.

        Raises:
            NonFiniteError: If the predictor returned NaN or infinity, unless such samples are kept.
        """
        lost = self._sums.isnan()
        if not keep_nonfinite and bool(lost.any()):
            first = int(lost.any(1).nonzero()[0])
            raise NonFiniteError(
                f"the time_gap_predictor returned NaN or infinity at timestep {self._timesteps[first]} for "
                f"{int(lost[first].sum())} of {lost.shape[1]} samples; check its weights and the samples"
            )
        return (self._sums / self._visits.to(self._device)).T


class Stopwatch:
    """Adds up seconds without making the host wait for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what happens inside."""
        started = self._now()
        yield
        self._spans.append((started, self._now()))

    @property
    def seconds(self) -> float:
        """Seconds measured so far."""
        if self._on_gpu:
            torch.cuda.synchronize()
            return sum(start.elapsed_time(end) for start, end in self._spans) / 1000
        return sum(end - start for start, end in self._spans)

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
