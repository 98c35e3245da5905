"""A network that tells how much noise an image holds."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

_EMBEDDED = 32


class NoiseLevelCNN(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """Regresses the logarithm of the noise in an image over the noise that its timestep should have.

    A noise level shows in the power of filtered images, so the head reads the mean and the log-power of every channel
    at every resolution. The timestep scales and shifts the channels (FiLM, arXiv 1709.07871).

    Args:
        in_channels: C, 1 for grey and 3 for RGB images.
        num_timesteps: T of the denoiser's schedule.
        widths: Channels of each stage; the image is halved after each.

    Raises:
        ValueError: If there are fewer than 2 timesteps.
    """

    @register_to_config
    def __init__(self, in_channels: int = 3, num_timesteps: int = 1000, widths: tuple[int, ...] = (16, 24, 48)) -> None:
        super().__init__()
        if num_timesteps < 2:
            raise ValueError(f"num_timesteps must be at least 2, got {num_timesteps}")
        self.num_timesteps = num_timesteps
        self.embed = nn.Sequential(nn.Linear(_EMBEDDED, 64), nn.SiLU())
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in pairwise((widths[0], *widths)))
        self.head = nn.Sequential(nn.Linear(2 * sum(widths) + 64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """``log r [B]`` for ``x = sqrt(a) x0 + r sqrt(1 - a) epsilon``, images ``[B, C, H, W]``.

        Args:
            x: Noisy images.
            timesteps: The timesteps they should be at, ``[B]`` in 0 .. T-1.
        """
        place = timesteps * (1000 / self.num_timesteps)
        time = self.embed(get_timestep_embedding(place, _EMBEDDED).to(x))
        h, features = self.stem(x), [time]
        for stage in self.stages:
            h = stage(h, time)
            features += [h.mean((2, 3)), (h.square().mean((2, 3)) + 1e-6).log()]
            h = nn.functional.avg_pool2d(h, 2)
        return self.head(torch.cat(features, 1))[:, 0]


class _Stage(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.film = nn.Linear(64, 2 * width_out)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time)[:, :, None, None].chunk(2, 1)
        h = self.conv1(nn.functional.silu(h)) * (1 + scale) + shift
        return h + self.conv2(nn.functional.silu(h))
