"""The noise level by the posterior of a time predictor."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Predict, Run, Step, per_sample
from tag_lightning.guidance.noise_level import NoiseLevel, half_log_snr, retimed
from tag_lightning.guidance.time_posterior import TimePredictorGuidance


class PosteriorNoise(NoiseLevel):
    """Posterior mean of the logarithmic signal-to-noise ratio by a time predictor, in damped fixed-point rounds.

    The predictor knows the marginals only, so each round asks it about the sample rescaled to the level found so far.
    Without ``CalibratedNoise`` a biased posterior moves samples that are fine. Costs one forward pass of the predictor
    per round.

    Args:
        predictor: Time predictor; None takes that of the run.
        rounds: At least 1.
        damping: Part of the way to the posterior mean taken in each round, in (0, 1].

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(self, predictor: nn.Module | None = None, rounds: int = 4, damping: float = 0.5) -> None:
        if rounds < 1 or not 0 < damping <= 1:
            raise ValueError(f"rounds must be at least 1 and damping in (0, 1], got {rounds} and {damping}")
        self.posterior, self.rounds, self.damping = TimePredictorGuidance(predictor), rounds, damping
        self.posterior.owner = type(self).__name__

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.posterior = self.posterior.for_run(run)
        return ready

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        grid, here = (half_log_snr(power, x) for power in (step.alphas_cumprod, step.alpha_bar))
        found = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for _ in range(self.rounds):
            _, scale = retimed(found, step)
            with torch.no_grad():
                log_posterior = self.posterior.log_posterior(per_sample(scale, x) * x, step)
            sought = here - log_posterior.double().exp() @ grid
            found = found + self.damping * (sought.to(x) - found)
        return found
