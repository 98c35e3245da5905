"""Denoising at the timestep whose variance the samples have."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Space, Step, on_device
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.time_posterior import require_one_timestep


class TimeShift(Guidance):
    """Time-shift sampler (Li et al. 2024, arXiv 2305.15583, Algorithm 3).

    Every sample is denoised at the timestep of a window around the scheduled one whose marginal variance is closest
    to the variance of the sample's own coordinates, with ``x0`` and ``epsilon`` of that level; the step still ends at
    the scheduled timestep. The first step, whose samples no step has made, is not shifted. Costs nothing alone, and
    beside a gradient method a second forward pass of the denoiser.

    The variance at timestep s is ``1 - a_s + a_s data_variance``. The paper leaves the data out, which biases the
    choice towards noisier timesteps, the more the cleaner the sample. Its cutoff, below which it shifts nothing, is
    ``stop``. Window and cutoff have the defaults of the authors' example, made for T = 1000.

    Args:
        window: Width of the window in training timesteps, at least 0; 0 changes nothing.
        data_variance: Mean variance of the coordinates of one clean sample, at least 0; 0 is the paper's.
        start: See ``Guidance``.
        stop: See ``Guidance``.

    Raises:
        ValueError: If ``window`` or ``data_variance`` is negative, or the latter not finite; beside another guidance
            that chooses the timestep, when a sampler is made.
    """

    steers = False
    replaces_timestep = True

    def __init__(
        self, window: int = 80, data_variance: float = 0.0, start: int | None = None, stop: int | None = 300
    ) -> None:
        super().__init__(start, stop)
        if window < 0:
            raise ValueError(f"window must be at least 0 training timesteps, got {window}")
        require_non_negative("data_variance", data_variance)
        self.window = window
        self.data_variance = data_variance

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        require_one_timestep(self, before)

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        if step.index == 0:
            return predict(x, step.timestep)
        powers = on_device(step.alphas_cumprod, x.device, torch.float64)
        marginal = 1 - powers + powers * self.data_variance
        timestep = on_device(step.timestep, x.device).expand(len(x))[:, None]
        places = torch.arange(step.num_timesteps, device=x.device)
        distance = (coordinate_variance(x.detach(), step.space)[:, None] - marginal).abs()
        outside = (places - timestep).abs() > self.window // 2
        return predict(x, distance.masked_fill(outside, math.inf).argmin(1))


def coordinate_variance(x: Tensor, space: Space) -> Tensor:
    """Unbiased variance ``[B]`` of the coordinates of each sample ``x [B, ...]``, within its degrees of freedom."""
    constant = space.project(torch.ones_like(x)).flatten(1)  # the direction of a common mean, as far as it exists
    power = constant.square().sum(1)
    flat = x.flatten(1)
    mean = (flat * constant).sum(1) / power.clamp(min=1)
    rest = flat - mean[:, None] * constant
    count = space.degrees_of_freedom.to(x) - (power > 0).to(x)
    return rest.square().sum(1) / count.clamp(min=1)
