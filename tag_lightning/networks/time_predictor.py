"""What all time predictors share, and the smallest of them."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class TimePredictor(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """A network that tells at which of T training timesteps a noisy sample is.

    Subclasses map samples ``[B, ...]`` to logits ``[B, T]``.

    Args:
        num_timesteps: T, that of the schedule the denoiser was trained on.

    Attributes:
        typical_nll: Mean ``-log p(t | x_t)`` of real, forward-noised data at every timestep, ``[T]`` in nats;
            NaN until measured. Kept with the weights, for strengths that calibrate themselves.
    """

    typical_nll: Tensor

    def __init__(self, num_timesteps: int) -> None:
        super().__init__()
        if num_timesteps < 2:
            raise ValueError(f"num_timesteps must be at least 2, got {num_timesteps}")
        self.register_buffer("typical_nll", torch.full((num_timesteps,), torch.nan))

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps told apart."""
        return len(self.typical_nll)


class MLPTimePredictor(TimePredictor):
    """A multi-layer perceptron over samples that are plain vectors, for the toy experiment.

    Args:
        num_features: D, the dimensions of a sample.
        num_timesteps: T.
        widths: Width of each hidden layer.
    """

    @register_to_config
    def __init__(
        self, num_features: int = 2, num_timesteps: int = 100, widths: tuple[int, ...] = (128, 128, 128)
    ) -> None:
        super().__init__(num_timesteps)
        sizes = (num_features, *widths)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(sizes):
            layers += [nn.Linear(width_in, width_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_timesteps))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, T]`` for samples ``x [B, D]``."""
        return self.layers(x)
