"""Denoising with an estimate of the noise that each sample really holds."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Guidance, Predict, Prediction, Run, Step, on_device, per_sample
from tag_lightning.guidance.time_posterior import TimePredictorGuidance, require_one_timestep


class EstimatedLevel(Guidance, ABC):
    """Noise level correction (Abuduweili et al. 2025, arXiv 2412.05488), for any estimate of the level.

    In units of the signal, ``y = x / sqrt(a)`` and ``sigma = sqrt((1 - a) / a)``, the estimate ``sigma^`` of every
    sample's level replaces ``sigma``:

    - ``epsilon`` is predicted for ``y / sqrt(1 + sigma^^2)`` at the timestep of the level nearest to ``sigma^``;
    - ``x0 = y - sigma^ epsilon``;
    - the next level shrinks in proportion, ``sigma' sigma^ / sigma``: with ``DDIM(eta=0)`` the next sample is
      ``x0 + sigma' (sigma^ / sigma) epsilon``.

    The returned noise is ``(sigma^ / sigma) epsilon``, which makes up ``x`` together with ``x0`` at the scheduled
    level, so that every solver takes that step. Left out of the published code: epsilon rescaled to the norm of white
    noise, and bounds on ``sigma`` from the norms of a data set. Beside a gradient method the denoiser runs a second
    forward pass.

    Args:
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: When a sampler is made, behind another guidance that chooses the timestep.
    """

    steers = False
    replaces_timestep = True

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        require_one_timestep(self, before)

    @abstractmethod
    def log_ratio(self, x: Tensor, step: Step) -> Tensor:
        """``log(sigma^ / sigma)`` of noisy samples ``x [B, ...]`` that should be at ``step.timestep``, ``[B]``."""

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        with torch.no_grad():
            ratio = self.log_ratio(x.detach(), step).double().exp()
        step.checks.require_finite(step.timestep, the_estimate_of_the_noise_level=ratio)
        powers = on_device(step.alphas_cumprod, x.device, torch.float64)
        a = on_device(step.alpha_bar, x.device, torch.float64)
        level = ratio * ((1 - a) / a).sqrt()
        estimated = 1 / (1 + level.square())
        timesteps = ((1 / powers - 1).log()[None] - 2 * level.log()[:, None]).abs().argmin(1)
        epsilon = predict(x * per_sample((estimated / a).sqrt(), x), timesteps).epsilon
        x0 = x / per_sample(a.expand(len(x)).sqrt(), x) - per_sample(level, x) * epsilon
        return Prediction(per_sample(ratio, x) * epsilon, x0, step.alpha_bar)


class NoiseLevelCorrection(EstimatedLevel):
    """Noise level correction by a small network trained for it, see ``EstimatedLevel``.

    The paper's network predicts the relative residual ``r`` of ``sigma^ = sigma (1 + r)`` from features of the
    denoiser; this one reads the sample and returns ``log(1 + r)``. Costs one forward pass of it.

    Args:
        network: ``(x [B, ...], timesteps [B], **inputs) -> log(sigma^ / sigma) [B]``. None takes the regressor of the
            noise level of the run.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    cost = "denoiser 1 / 0, regressor 1 / 0"

    def __init__(self, network: nn.Module | None = None, **interval: Any) -> None:
        super().__init__(**interval)
        self.network = network

    def for_run(self, run: Run) -> Self:
        """As ``Guidance.for_run``.

        Raises:
            ValueError: If neither this guidance nor the run has a regressor of the noise level.
        """
        ready = copy.copy(self)
        ready.network = run.noise_level if self.network is None else self.network
        if ready.network is None:
            raise ValueError(
                "NoiseLevelCorrection has no network: pass network=..., give the run a regressor of the noise level, "
                "or use TimePredictorLevelCorrection, which needs none"
            )
        return ready

    def log_ratio(self, x: Tensor, step: Step) -> Tensor:
        if self.network is None:
            raise ValueError("NoiseLevelCorrection has no network: pass network=..., or call for_run with one")
        timesteps = on_device(step.timestep, x.device).expand(len(x))
        return self.network(x, timesteps, **step.space.inputs)


class TimePredictorLevelCorrection(TimePredictorGuidance, EstimatedLevel):
    """Noise level correction with the level that the time predictor expects, see ``EstimatedLevel``.

    ``log sigma^`` is the posterior mean of ``log sigma_t``. Costs one forward pass of the predictor.

    Args:
        predictor: See ``TimePredictorGuidance``.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    cost = "denoiser 1 / 0, predictor 1 / 0"

    def log_ratio(self, x: Tensor, step: Step) -> Tensor:
        powers = on_device(step.alphas_cumprod, x.device, torch.float64)
        log_levels = (1 / powers - 1).log() / 2
        expected = (self.log_posterior(x, step).double().exp() * log_levels).sum(1)
        return expected - log_levels[step.timestep]
