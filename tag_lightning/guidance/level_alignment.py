"""Temporal alignment whose step is as long as the noise that a sample holds in excess."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Predict, Run, Step, per_sample
from tag_lightning.guidance.noise_level import NoiseLevel, RegressedNoise
from tag_lightning.guidance.time_posterior import TimePredictorGuidance


class LevelAlignment(TimePredictorGuidance):
    """Moves each sample along the time-linked score by the noise that it has too much or too little of.

    With ``r`` the estimated noise of the sample over the noise that its timestep should have, and ``d`` its degrees of
    freedom: ``x_t <- x_t + |r - 1| sqrt(d (1 - alphas_cumprod[t])) score / |score|``. The time predictor chooses the
    direction, as in TAG, and the estimate of the level the length, in place of a ``Strength``. A sample whose score is
    zero stays where it is.

    Args:
        predictor: See ``TimePredictorGuidance``.
        level: The estimate of the noise level.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    cost = "denoiser 1 / 0, predictor 1 / 1, noise level 1 / 0"

    def __init__(
        self, predictor: nn.Module | None = None, level: NoiseLevel = RegressedNoise(), **interval: Any
    ) -> None:
        super().__init__(predictor, **interval)
        self.level = level

    def for_run(self, run: Run) -> Self:
        ready = super().for_run(run)
        ready.level = self.level.for_run(run)
        return ready

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        score, _ = self.time_score(x, step)
        log_ratio = self.level.log_ratio(x.detach(), step, predict)
        step.checks.require_finite(step.timestep, the_noise_level=log_ratio)
        excess = log_ratio.expm1().abs() * (step.space.degrees_of_freedom * (1 - step.alpha_bar)).sqrt()
        length = score.flatten(1).norm(dim=1).clamp(min=torch.finfo(score.dtype).eps)
        return x + per_sample(excess / length, x) * score
