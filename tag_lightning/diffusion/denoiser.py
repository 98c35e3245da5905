"""A noise-predicting network together with the schedule it was trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tag_lightning.diffusion.schedules import NoiseSchedule


class Prediction(NamedTuple):
    """What is believed about a noisy sample ``x_t``.

    Attributes:
        epsilon: The noise in it, ``[B, ...]``.
        x0: The clean sample behind it (Tweedie), ``[B, ...]``.
    """

    epsilon: Tensor
    x0: Tensor


class Denoiser(nn.Module):
    """Turns a network that predicts noise into predictions of noise and clean sample.

    Args:
        network: Called as ``network(x_t, timesteps, **inputs)`` with ``timesteps [B]``; returns epsilon of the
            shape of ``x_t``, as a tensor or as the ``.sample`` of a diffusers output.
        schedule: The noise schedule the network was trained on.
    """

    def __init__(self, network: nn.Module, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule

    def forward(self, x: Tensor, timestep: Tensor | int, **inputs: Tensor) -> Prediction:
        """Predict for noisy samples ``x [B, ...]`` at ``timestep``, one integer or ``[B]`` of them."""
        timesteps = torch.as_tensor(timestep, device=x.device).expand(len(x))
        output = self.network(x, timesteps, **inputs)
        epsilon = output if isinstance(output, Tensor) else output.sample
        if epsilon.shape != x.shape:
            raise ValueError(
                f"the denoiser returned shape {list(epsilon.shape)} for samples of shape {list(x.shape)}; "
                "its out_channels must equal its in_channels (it predicts the noise alone, no variance)"
            )
        return Prediction(epsilon, self.schedule.x0_from_epsilon(x, epsilon, timesteps))
