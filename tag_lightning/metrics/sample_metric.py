"""The contract of a metric of generated samples."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn


class SampleMetric(ABC):
    """Measures generated samples: a row of numbers per sample first, then figures of all rows together.

    The rows are gathered from all processes in the order of the samples' global indices before ``summary`` sees
    them, so the figures do not depend on the number of processes. A metric of wide rows that needs no more than sums of
    them names its columns in ``streamed`` and adds them up in ``totals``: memory then does not grow with the samples.

    Attributes:
        task: The ``SamplingTask`` that the metric is bound to, None before ``for_task``.
        needs_real: Iterate over the real training data before sampling and hand each batch to ``add_real``.
        streamed: Columns that ``summary`` does not need once ``totals`` has added them up; they are gathered only where
            a sweep resamples them.
        reference: Figures of held-out real data by the names of ``summary``; known after ``prepare``.
    """

    task: Any = None
    needs_real: bool = False
    streamed: Collection[str] = ()
    reference: Mapping[str, float] = {}

    def for_task(self, task: Any) -> Self:
        """A copy bound to the task's data, targets and judge. A metric that accumulates state starts it here.

        Raises:
            ValueError: If the metric cannot measure what this task draws.
        """
        bound = copy.copy(self)
        bound.task = task
        return bound

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, int]:
        """Name and width of each row quantity. A metric without columns cannot be measured here and is left out."""

    @property
    def networks(self) -> list[nn.Module]:
        """Networks to move to the sampling device, beside the task's judge."""
        return []

    @abstractmethod
    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        """Measure a chunk of samples, without gradients.

        Args:
            x: Clean samples ``[B, ...]`` in the full sample shape, on the sampling device.
            indices: Their global indices, B of them.

        Returns:
            Every column, ``[B, width]`` each.
        """

    def totals(self, rows: Mapping[str, Tensor], indices: Sequence[int]) -> dict[str, Tensor]:
        """Sums over samples by names that no column has, zeros of the same shape for no samples.

        Args:
            rows: This metric's columns, ``[B, width]`` each; B may be 0.
            indices: Global indices of the samples, B of them.
        """
        return {}

    def add_real(self, batch: Any, device: torch.device) -> None:
        """Add one batch of the real training data; called for each batch once if ``needs_real``."""
        return

    def prepare(self, device: torch.device) -> None:
        """Finish the reference from real data; called once, after all batches were added."""
        return

    def reference_state(self) -> dict[str, Any]:
        """All that ``prepare`` computed from the real data, so that a comparison can do without them.

        Returns:
            Tensors and JSON values by name, for ``load_reference_state``.
        """
        return {"reference": dict(self.reference)}

    def load_reference_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``reference_state`` in place of ``add_real`` and ``prepare``; called once.

        Raises:
            ValueError: If this metric compares with something else.
        """
        self.reference = state["reference"]

    @abstractmethod
    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures of all samples by name.

        Args:
            rows: The columns of all metrics except streamed ones, ``[N, width]`` float64 on the CPU, row ``i`` of
                sample ``i``, and the ``totals`` of all samples.
        """

    def terms(self, rows: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Numerators and denominators ``[N]`` per sample, by figure, of figures that are the ratio of their sums.

        Resampling the samples then needs no new measurement.

        Args:
            rows: As for ``summary``.
        """
        return {}
