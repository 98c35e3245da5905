"""The noise level by the length of the noise that the denoiser predicts."""

from __future__ import annotations

import torch
from torch import Tensor

from tag_lightning.diffusion import Predict, Step, per_sample
from tag_lightning.guidance.noise_level import NoiseLevel, retimed


class PredictedNoise(NoiseLevel):
    """Fixed point of ``E |epsilon|^2 / d = 1``: the predicted noise has its length at the right level.

    Each round denoises at the level found so far and multiplies ``r`` by ``|epsilon| / sqrt(d)``. The mean noise given
    the sample is shorter than the noise itself, so the fixed point lies too low near the data; ``CalibratedNoise``
    takes this bias away. Costs one forward pass of the denoiser per round.

    Args:
        rounds: At least 1.

    Raises:
        ValueError: If ``rounds`` is below 1.
    """

    def __init__(self, rounds: int = 1) -> None:
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        self.rounds = rounds

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        found = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for _ in range(self.rounds):
            timesteps, scale = retimed(found, step)
            with torch.no_grad():
                epsilon = predict(per_sample(scale, x) * x, timesteps).epsilon
            mean_square = epsilon.flatten(1).square().sum(1) / step.space.degrees_of_freedom
            found = found + 0.5 * mean_square.clamp(min=torch.finfo(x.dtype).tiny).log()
        return found
