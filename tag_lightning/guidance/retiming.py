"""Denoising of every sample at the noise level that it has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Run, Step, per_sample
from tag_lightning.guidance.noise_level import NoiseLevel, RegressedNoise, retimed
from tag_lightning.guidance.questions import same_samples, same_timestep
from tag_lightning.guidance.time_posterior import require_one_timestep


class Retiming(Guidance):
    """Denoises each sample at the noise level that it has, and steps on from there.

    A sample ``sqrt(a_t) x0 + r sqrt(1 - a_t) epsilon`` lies, but for its scale, on the marginal of the timestep s with
    ``(1 - a_s) / a_s = r^2 (1 - a_t) / a_t``. ``x sqrt(a_s / a_t)`` is denoised there. The ``x0`` and ``epsilon`` found
    are those of the sample, and the solver puts them together anew with the noise that the next timestep should have.
    s is rounded to a training timestep; at the noisy end, where none has enough noise, the noise is scaled to fit.

    The level is estimated once for all questions of a step about the same samples at the same timestep, so that both
    halves of a contrast behind it, such as ``CFG``, are answered at one level: that of the first question. Samples that
    another guidance has moved have a level of their own.

    Beyond the level's own cost this costs nothing. A gradient method beside it costs one denoiser pass more, since it
    differentiates the prediction for the sample as it is.

    Args:
        level: The estimate of the noise level.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: When a sampler is made, behind another guidance that chooses the timestep.
    """

    steers = False
    replaces_timestep = True
    cost = "denoiser 1 / 0, with a gradient method 2 / 1, noise level 1 / 0"

    def __init__(self, level: NoiseLevel = RegressedNoise(), **interval: Any) -> None:
        super().__init__(**interval)
        self.level = level

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.level = self.level.for_run(run)
        return ready

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        require_one_timestep(self, before)

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        timesteps, scale = self._found(x.detach(), step, predict)
        return predict(per_sample(scale, x) * x, timesteps)

    def _found(self, x: Tensor, step: Step, predict: Predict) -> tuple[Tensor, Tensor]:
        """The timestep of each of the samples ``x [B, ...]``, and their scale there, ``[B]`` both."""
        if (latest := step.state.get("retimed")) is not None:
            place, samples, timestep, found = latest
            if place == step.place and same_samples(samples, x) and same_timestep(timestep, step.timestep):
                return found
        log_ratio = self.level.log_ratio(x, step, predict)
        step.checks.require_finite(step.timestep, the_noise_level=log_ratio)
        found = retimed(log_ratio, step)
        step.state["retimed"] = (step.place, x, step.timestep, found)
        return found
