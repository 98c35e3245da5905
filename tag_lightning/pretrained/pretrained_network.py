"""A loaded network with what its training fixed: noise schedule, prediction type, clip range."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from tag_lightning.diffusion import NoiseSchedule, PredictionType


class Pretrained(NamedTuple):
    """A network in evaluation mode, its parameters frozen; ``Denoiser(*pretrained)`` is its denoiser.

    Attributes:
        network: The network.
        schedule: Noise schedule of its training; None for networks of clean samples.
        prediction_type: The quantity that a denoiser predicts.
        clip_range: See ``Denoiser``; only the scheduler of a diffusers folder sets it.
    """

    network: nn.Module
    schedule: NoiseSchedule | None
    prediction_type: PredictionType = "epsilon"
    clip_range: float | None = None


def frozen(
    network: nn.Module,
    schedule: NoiseSchedule | None,
    prediction_type: PredictionType = "epsilon",
    clip_range: float | None = None,
) -> Pretrained:
    """Return the network in evaluation mode, its parameters frozen."""
    return Pretrained(network.eval().requires_grad_(False), schedule, prediction_type, clip_range)


def require_finite_parameters(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Check that no parameter is NaN or infinite.

    Args:
        weights: Parameters by name. Buffers may be NaN, for example a calibration that was not measured.
        source: Name of the file or folder in the error.

    Raises:
        ValueError: Names the first such parameter.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(
                f"the weights in {source} have NaN or infinity in {name}: the training diverged or the file is "
                "damaged; take an earlier checkpoint or copy it again"
            )
