"""A loaded network with what its training fixed: noise schedule, prediction type, clip range."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from tag_lightning.diffusion import NoiseSchedule, PredictionType
from tag_lightning.tensor_file import require_finite


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


def require_finite_network(network: nn.Module, source: str | Path) -> None:
    """Check that no parameter and no saved buffer is NaN or infinite, such as the means of a batch normalisation.

    Args:
        network: Exempt are the buffers that a part of it lists in ``nan_until_measured``.
        source: Name of the file or folder in the error.

    Raises:
        ValueError: Names the first such entry.
    """
    exempt = {
        f"{place}.{name}".lstrip(".")
        for place, part in network.named_modules()
        for name in getattr(part, "nan_until_measured", ())
    }
    require_finite({name: value for name, value in network.state_dict().items() if name not in exempt}, source)
