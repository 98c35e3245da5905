"""Denoising with an estimate of the noise that each sample really holds."""

from __future__ import annotations

import torch
from torch import Tensor

from tag_lightning.diffusion import Predict, Prediction, Step, on_device, per_sample
from tag_lightning.guidance.estimated_level import EstimatedLevel


class NoiseLevelCorrection(EstimatedLevel):
    """Noise level correction (Abuduweili et al. 2025, arXiv 2412.05488), for any estimate of the level.

    In units of the signal, ``y = x / sqrt(a)`` and ``sigma = sqrt((1 - a) / a)``, the estimate ``sigma^`` of every
    sample's level replaces ``sigma``:

    - ``epsilon`` is predicted for ``y / sqrt(1 + sigma^^2)`` at the timestep of the level nearest to ``sigma^``;
    - ``x0 = y - sigma^ epsilon``;
    - the next level shrinks in proportion, ``sigma' sigma^ / sigma``: with ``DDIM(eta=0)`` the next sample is
      ``x0 + sigma' (sigma^ / sigma) epsilon``.

    The returned noise is ``(sigma^ / sigma) epsilon``, which makes up ``x`` together with ``x0`` at the scheduled
    level, so that every solver takes that step. Left out of the published code: epsilon rescaled to the norm of white
    noise, and bounds on ``sigma`` from the norms of a data set.

    The paper's network predicts the relative residual of ``sigma^`` from features of the denoiser; ``RegressedNoise``
    reads the sample. ``PosteriorNoise(rounds=1, damping=1)`` is the level that the time predictor expects. Arguments
    and cost are those of ``EstimatedLevel``.
    """

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        ratio = self.log_ratio(x, step, predict).double().exp()
        powers = on_device(step.alphas_cumprod, x.device, torch.float64)
        a = on_device(step.alpha_bar, x.device, torch.float64)
        level = ratio * ((1 - a) / a).sqrt()
        estimated = 1 / (1 + level.square())
        timesteps = ((1 / powers - 1).log()[None] - 2 * level.log()[:, None]).abs().argmin(1)
        epsilon = predict(x * per_sample((estimated / a).sqrt(), x), timesteps).epsilon
        x0 = x / per_sample(a.expand(len(x)).sqrt(), x) - per_sample(level, x) * epsilon
        return Prediction(per_sample(ratio, x) * epsilon, x0, step.alpha_bar)
