"""The outcome of one arm."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tag_lightning.diffusion import NonFiniteError
from tag_lightning.evaluation.arms import SweepPoint


@dataclass
class ArmResult:
    """Samples of one arm and their measurements, the same on every process.

    Attributes:
        figures: Value by metric.
        timesteps: Training timesteps visited, decreasing.
        gaps: Mean Time-Gap at each of them, ``[S]``; None without a time predictor.
        samples: The first samples by global index, on the CPU.
        rows: Measurements of every sample by global index, ``[N, width]`` each, on the CPU; without the columns that
            metrics add up as they come, such as features, unless a sweep resamples them.
        point: The arm's place on the curve of a sweep; None outside of sweeps.
    """

    figures: dict[str, float]
    timesteps: list[int]
    gaps: Tensor | None
    samples: Tensor
    rows: dict[str, Tensor] = field(default_factory=dict, repr=False)
    point: SweepPoint | None = None


@dataclass(frozen=True)
class FailedArm:
    """An arm whose drawing failed, and which therefore has neither samples nor figures.

    Attributes:
        error: The error, which names arm, timestep and remedy.
        point: The arm's place on the curve of a sweep; None outside of sweeps.
    """

    error: str
    point: SweepPoint | None = None


class FailedArmError(NonFiniteError):
    """An arm became NaN or infinite; raised on every process alike, whichever of them found it."""
