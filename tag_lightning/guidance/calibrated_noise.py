"""An estimate of the noise level without its bias, and silent within its spread."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Denoiser, Predict, Prediction, Run, Space, Step
from tag_lightning.evaluation_mode import evaluating, networks_inside
from tag_lightning.guidance.noise_level import NoiseLevel, timesteps


class CalibratedNoise(NoiseLevel):
    """Another estimate, corrected for its bias; 0 below a threshold in its standard deviations.

    Bias and spread are those of real data that hold the right noise, measured once by ``measured``.

    Args:
        level: The estimate.
        bias: Mean of ``log r`` where it should be 0, at every timestep, ``[T]``.
        spread: Its standard deviation there, ``[T]``.
        threshold: Number of standard deviations within which a sample is left alone, at least 0.

    Raises:
        ValueError: If ``bias`` and ``spread`` are not two vectors of one length, or ``threshold`` is negative.
    """

    def __init__(self, level: NoiseLevel, bias: Tensor, spread: Tensor, threshold: float = 2.0) -> None:
        if bias.ndim != 1 or bias.shape != spread.shape:
            raise ValueError(
                f"bias and spread must be two vectors [T], not {list(bias.shape)} and {list(spread.shape)}"
            )
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        self.level, self.bias, self.spread, self.threshold = level, bias, spread, threshold

    @classmethod
    def measured(
        cls,
        level: NoiseLevel,
        x0: Tensor,
        space: Space,
        denoiser: Denoiser,
        at: Sequence[int],
        threshold: float = 2.0,
        seed: int = 0,
    ) -> Self:
        """Measure bias and spread on real data, with all networks in evaluation mode.

        Args:
            level: The estimate, with nothing left open.
            x0: Clean samples ``[B, ...]``, at least two, best of the validation split.
            space: Their space, with the condition of each if the denoiser is conditional.
            denoiser: The denoiser that samples will be drawn with.
            at: Timesteps to measure at; the others take the values of the nearest one.
            threshold: See the class.
            seed: Seed of the noise.

        Raises:
            ValueError: If there are fewer than two samples.
            NonFiniteError: If the estimate is NaN or infinite.
        """
        if len(x0) < 2:
            raise ValueError(f"the spread of an estimate is measured on at least 2 samples, got {len(x0)}")
        schedule, source = denoiser.schedule, space.noise_source(seed)
        powers = schedule.alphas_cumprod
        rows = []

        def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
            return denoiser(x, timestep, **{**space.inputs, **space.denoiser_inputs, **inputs})

        for t in at:
            power = float(powers[t])
            levels = [(power, 1.0)]
            step = Step(0, t, None, power, 1.0, len(powers), levels, space, source, alphas_cumprod=powers)
            with torch.no_grad(), evaluating(denoiser, *networks_inside(level, space)):
                found = level.log_ratio(schedule.add_noise(x0, space.noise(source), t), step, predict)
            step.checks.require_finite(t, the_noise_level=found)
            step.checks.settle()
            rows.append((found.mean(), found.std()))
        nearest = (torch.arange(len(powers))[:, None] - torch.tensor(list(at))).abs().argmin(1).to(x0.device)
        bias, spread = (torch.stack(values)[nearest] for values in zip(*rows, strict=True))
        return cls(level, bias, spread, threshold)

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.level = self.level.for_run(run)
        return ready

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        at = timesteps(x, step)
        found = self.level.log_ratio(x, step, predict) - self.bias.to(x)[at]
        return torch.where(found.abs() > self.threshold * self.spread.to(x)[at], found, 0)
