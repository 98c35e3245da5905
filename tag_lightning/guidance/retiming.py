"""Denoising of every sample at the noise level that it has."""

from __future__ import annotations

from torch import Tensor

from tag_lightning.diffusion import Predict, Prediction, Step, per_sample
from tag_lightning.guidance.estimated_level import EstimatedLevel
from tag_lightning.guidance.noise_level import retimed


class Retiming(EstimatedLevel):
    """Denoises each sample at the noise level that it has, and steps on from there.

    A sample ``sqrt(a_t) x0 + r sqrt(1 - a_t) epsilon`` lies, but for its scale, on the marginal of the timestep s with
    ``(1 - a_s) / a_s = r^2 (1 - a_t) / a_t``. ``x sqrt(a_s / a_t)`` is denoised there. The ``x0`` and ``epsilon`` found
    are those of the sample, and the solver puts them together anew with the noise that the next timestep should have.
    s is rounded to a training timestep; at the noisy end, where none has enough noise, the noise is scaled to fit.

    ``NoiseLevelCorrection`` differs in keeping the excess of noise from step to step. Arguments and cost are those of
    ``EstimatedLevel``.
    """

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        timesteps, scale = retimed(self.log_ratio(x, step, predict), step)
        return predict(per_sample(scale, x) * x, timesteps)._replace(input_scale=scale.to(x))
