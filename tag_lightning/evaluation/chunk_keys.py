"""The names under which chunks of samples are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tag_lightning.diffusion import Sampler
from tag_lightning.evaluation.fingerprint import Fingerprints, environment
from tag_lightning.evaluation.task import SamplingTask


class ChunkKeys:
    """Fingerprints of the chunks of a comparison: of everything that their samples and rows depend on.

    Args:
        task: The task, bound to data and to the samples to draw.
        device: Device to sample on.
        chunks: Global indices of each chunk, and the same padded.
        settings: Whatever all arms share beside the task.
    """

    def __init__(
        self, task: SamplingTask, device: torch.device, chunks: Sequence[tuple[list[int], list[int]]], settings: Any
    ) -> None:
        self._task, self._device, self._chunks, self._settings = task, device, chunks, settings
        self._fingerprints = Fingerprints()

    def of(self, networks: Iterable[nn.Module], sampler: Sampler, best_of: int, conditional: bool) -> list[str]:
        """The key of every chunk of an arm.

        Args:
            networks: All networks of the comparison, whose weights are read once.
            sampler: The arm's sampler.
            best_of: The arm's number of candidates.
            conditional: The denoiser is told the condition in this arm.

        Raises:
            IndescribableError: If something that samples depend on has no fingerprint; names it.
        """
        self._fingerprints.remember(*networks)
        arm = self._fingerprints.of(sampler, best_of, conditional, self._common)
        return [self._fingerprints.of(arm, chunk) for chunk in self._asked]

    @cached_property
    def _common(self) -> str:
        return self._fingerprints.of(self._settings, self._task.described(), environment(self._device))

    @cached_property
    def _asked(self) -> list[str]:
        # The targets of samples often depend on the data, which may have changed under the same settings.
        task, device = self._task, self._device
        return [
            self._fingerprints.of(
                *(kept, padded, task.space(padded, device)),
                *(task.conditions(padded, device), task.attributes(padded, device)),
            )
            for kept, padded in self._chunks
        ]
