"""Denoising of every sample at the noise level that it has."""

from __future__ import annotations

import copy
from typing import Any, Self

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Run, Step, per_sample
from tag_lightning.guidance.noise_level import NoiseLevel, RegressedNoise, retimed


class Retiming(Guidance):
    """Denoises each sample at the noise level that it has, and steps on from there.

    A sample ``sqrt(a_t) x0 + r sqrt(1 - a_t) epsilon`` lies, but for its scale, on the marginal of the timestep s with
    ``(1 - a_s) / a_s = r^2 (1 - a_t) / a_t``. ``x sqrt(a_s / a_t)`` is denoised there. The ``x0`` and ``epsilon`` found
    are those of the sample, and the solver puts them together anew with the noise that the next timestep should have.
    s is rounded to a training timestep; at the noisy end, where none has enough noise, the noise is scaled to fit.

    Beyond the level's own cost this costs nothing. A gradient method beside it costs one denoiser pass more, since it
    differentiates the prediction for the sample as it is.

    Args:
        level: The estimate of the noise level.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    steers = False
    cost = "denoiser 1 / 0, with a gradient method 2 / 1, noise level 1 / 0"

    def __init__(self, level: NoiseLevel = RegressedNoise(), **interval: Any) -> None:
        super().__init__(**interval)
        self.level = level

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.level = self.level.for_run(run)
        return ready

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        log_ratio = self.level.log_ratio(x.detach(), step, predict)
        step.checks.require_finite(step.timestep, the_noise_level=log_ratio)
        timesteps, scale = retimed(log_ratio, step)
        return predict(per_sample(scale, x) * x, timesteps)
