"""What one kind of data asks of guided sampling: where samples live, what they should be, how they are judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Space
from tag_lightning.guidance import Condition


@dataclass
class ArmResult:
    """What came of one arm, the same on every process.

    Attributes:
        figures: Metric by name.
        timesteps: Training timesteps visited, decreasing.
        gaps: Mean Time-Gap at each of them, ``[S]``; None without a time predictor.
        samples: The first samples by global index, on the CPU.
        rows: What was measured of every sample by global index, ``[N, width]`` each, on the CPU.
    """

    figures: dict[str, float]
    timesteps: list[int]
    gaps: Tensor | None
    samples: Tensor
    rows: dict[str, Tensor] = field(default_factory=dict, repr=False)


class SamplingTask(ABC):
    """One kind of samples.

    Attributes:
        sample_shape: Of one sample, padding included.
        guided: Whether there is a guide, and so conditions.
        features_name: What Frechet distances are measured on; None where there are none.
        num_reference: Real samples that generated ones are compared with.
        keep_nonfinite: Whether samples that became NaN are counted, instead of ending the run.
        reference: Figures of held-out real data, judged as samples are: what no sampler can be asked to beat.
    """

    sample_shape: tuple[int, ...]
    guided: bool = False
    features_name: str | None = None
    num_reference: int = 0
    keep_nonfinite: bool = False
    reference: Mapping[str, float] = {}

    @property
    @abstractmethod
    def columns(self) -> dict[str, int]:
        """What ``measure`` returns for every sample, and how wide."""

    @property
    def networks(self) -> list[nn.Module]:
        """What has to be where the samples are made."""
        return []

    @abstractmethod
    def space(self, indices: Sequence[int], device: torch.device) -> Space:
        """Where the samples of these global indices live."""

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        """What guided samples of these indices should satisfy, by name."""
        return {}

    def told(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The targets of these samples by name, ``[B]`` each, for time predictors that are conditioned on them."""
        return {}

    def order(self, num_samples: int) -> list[int]:
        """Global indices in the order in which chunks take them."""
        return list(range(num_samples))

    def whole(self, x: Tensor) -> Tensor:
        """Samples ``[B, ...]`` of a chunk in the full ``sample_shape``."""
        return x

    @abstractmethod
    def measure(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        """Rows ``[B, width]`` from which ``summarize`` makes the figures, for whole samples."""

    @abstractmethod
    def prepare(self, reference: Iterable[Any], device: torch.device) -> None:
        """Take what is needed of the real data, once."""

    @abstractmethod
    def summarize(self, rows: dict[str, Tensor]) -> dict[str, float]:
        """The figures of all samples' rows, as far as they can be had."""

    @abstractmethod
    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """Bytes ``[3, H, W]`` by name; a slash in it makes a folder."""

    def write(self, result: ArmResult, folder: Path, name: str) -> list[Path]:
        """Write the samples of an arm as files of that name; what was written."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary, path = folder / f".{name}.npz", folder / f"{name}.npz"
        np.savez_compressed(temporary, samples=result.samples.numpy())
        temporary.replace(path)
        return [path]
