"""Langevin steps within the marginal of a timestep."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Step, per_sample
from tag_lightning.diffusion.arguments import require_non_negative


class LangevinCorrector(Guidance):
    """Corrector of predictor-corrector sampling (Song et al. 2021, arXiv 2011.13456, Algorithm 5).

    ``x <- x + delta s(x) + sqrt(2 delta) z`` with the denoiser's score ``s = -epsilon / sqrt(1 - a)``, fresh noise
    ``z`` and ``delta = 2 alpha_t (snr |z| / |s|)^2``. ``alpha_t = a_t / a_{t-1}`` is the variance-preserving factor of
    one training timestep, whatever the number of steps. The paper's code averages both norms over the batch; here each
    sample has its own, since samples must not depend on their batch. The corrector runs before each step, at the level
    that the step before reached. Costs one forward pass of the denoiser per corrector step.

    Args:
        snr: Signal-to-noise ratio of a corrector step, at least 0; 0 changes nothing.
        num_corrections: Corrector steps per reverse step, at least 1.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``snr`` is negative or not finite, or ``num_corrections`` below 1.
    """

    steers = False
    cost = "denoiser 1 + n / 0"

    def __init__(self, snr: float = 0.16, num_corrections: int = 1, **interval: Any) -> None:
        super().__init__(**interval)
        require_non_negative("snr", snr)
        if num_corrections < 1:
            raise ValueError(f"num_corrections must be at least 1, got {num_corrections}")
        self.snr = snr
        self.num_corrections = num_corrections

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        powers, t = step.alphas_cumprod, step.timestep
        alpha = torch.as_tensor(powers[t] / powers[t - 1] if t > 0 else powers[0]).to(x)
        for _ in range(self.num_corrections):
            with torch.no_grad():
                epsilon = predict(x, t).epsilon
            step.checks.require_finite(t, the_denoiser=epsilon)
            score = step.space.project(-epsilon / math.sqrt(1 - step.alpha_bar))
            noise = step.noise()
            lengths = (direction.flatten(1).norm(dim=1) for direction in (noise, score))
            delta = 2 * alpha * (self.snr * next(lengths) / next(lengths).clamp(min=1e-12)).square()
            x = x + per_sample(delta, x) * score + per_sample((2 * delta).sqrt(), x) * noise
        return x
