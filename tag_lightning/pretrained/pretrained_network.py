"""A loaded network with what its training fixed: noise schedule, prediction type, clip range."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from tag_lightning.diffusion import Denoiser, NoiseSchedule, PredictionType
from tag_lightning.tensor_file import require_finite


class Pretrained(NamedTuple):
    """A network in evaluation mode, its parameters frozen; ``Denoiser(*pretrained)`` is its denoiser.

    Attributes:
        network: The network.
        schedule: Noise schedule of its training; None for networks of clean samples.
        prediction_type: The quantity that a denoiser predicts; None for networks of clean samples.
        clip_range: See ``Denoiser``; only the scheduler of a diffusers folder sets it.
    """

    network: nn.Module
    schedule: NoiseSchedule | None
    prediction_type: PredictionType | None = None
    clip_range: float | None = None

    def denoiser(self, source: str | Path) -> Denoiser:
        """The denoiser that the network is, or an error that names it.

        Args:
            source: Its name, folder or checkpoint, for the error.

        Raises:
            ValueError: If the network has no noise schedule.
        """
        if self.schedule is None:
            raise ValueError(
                f"denoiser {source} has no noise schedule: it is not a denoiser of this package; for a diffusers "
                "model, give the folder of its pipeline, or put scheduler_config.json beside it"
            )
        return Denoiser(self.network, self.schedule, self.prediction_type, self.clip_range)


def frozen(
    network: nn.Module,
    schedule: NoiseSchedule | None,
    prediction_type: PredictionType | None = None,
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
