"""A noise level followed along the trajectory of each sample."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Predict, Run, Step, on_device
from tag_lightning.guidance.noise_level import NoiseLevel


class TrackedNoise(NoiseLevel):
    """Another estimate, filtered over the steps of each sample by a scalar Kalman filter (Kalman 1960).

    Retiming takes each step's damage out, so the power that a lasting disturbance adds to a step,
    ``v = (r^2 - 1) (1 - a)``, changes slowly from step to step. The filter follows ``v`` as a random walk. One estimate
    is taken to err by the ``1 / sqrt(2 d)`` that d Gaussian coordinates allow; before the first one nothing is known.
    Every estimate of a step is filtered with those of the steps before it, and the last one is remembered.

    Args:
        level: The estimate.
        drift: Standard deviation of the change of ``v`` over one step, as a fraction of the step's noise power; above
            0. Infinity keeps the estimate as it is.

    Raises:
        ValueError: If ``drift`` is not above 0.
    """

    def __init__(self, level: NoiseLevel, drift: float = 0.02) -> None:
        if not drift > 0:
            raise ValueError(f"drift must be above 0, got {drift}")
        self.level, self.drift = level, drift

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.level = self.level.for_run(run)
        return ready

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        ratio = (2 * self.level.log_ratio(x, step, predict).double()).exp()
        power = 1 - on_device(step.alpha_bar, x.device, torch.float64).expand(len(x))
        seen = (ratio - 1) * power
        error = (2 * ratio * power).square() / (2 * step.space.degrees_of_freedom.double())
        place, before, after = step.state.get("tracked_noise", (None, None, None))
        if place != step.place:
            before = after
        if before is None:
            mean, variance = seen, error
        else:
            predicted = before[1] + (self.drift * power).square()
            gain = predicted / (predicted + error)
            gain = torch.where(predicted.isinf(), 1.0, gain)
            mean, variance = before[0] + gain * (seen - before[0]), (1 - gain) * predicted
            variance = torch.where(predicted.isinf(), error, variance)
        step.state["tracked_noise"] = (step.place, before, (mean, variance))
        # The excess is never so negative that no noise would be left.
        return 0.5 * torch.log1p((mean / power).clamp(min=-0.99)).to(x)
