"""Guidance that denoises each sample at the noise level that it is estimated to have."""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Run, Step
from tag_lightning.guidance.noise_level import NoiseLevel, RegressedNoise
from tag_lightning.guidance.questions import same_samples, same_timestep
from tag_lightning.guidance.time_posterior import require_one_timestep


class EstimatedLevel(Guidance, ABC):
    """Denoises each sample at an estimate of its noise level; what becomes of the estimate is the subclass's.

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

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """``log r [B]`` of ``NoiseLevel`` for the samples ``x [B, ...]``, without gradient.

        Raises:
            NonFiniteError: If the estimate holds NaN or infinity.
        """
        x = x.detach()
        if (latest := step.state.get("estimated")) is not None:
            place, samples, timestep, found = latest
            if place == step.place and same_samples(samples, x) and same_timestep(timestep, step.timestep):
                return found
        found = self.level.log_ratio(x, step, predict)
        step.checks.require_finite(step.timestep, the_noise_level=found)
        step.state["estimated"] = (step.place, x, step.timestep, found)
        return found
