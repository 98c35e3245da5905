"""Denoising at the timestep that the samples look like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step
from tag_lightning.guidance.time_posterior import TimePredictorGuidance, require_one_timestep


class TimeCorrection(TimePredictorGuidance):
    """Time correction sampler (Jung et al. 2024, arXiv 2411.00551): denoises at the predicted timestep.

    ``t~ = argmax_t p(t | x)`` takes the place of ``t`` in the denoiser, with ``x0`` and ``epsilon`` of the level
    ``t~``; the step still ends at the scheduled timestep. The sample itself is not moved or rescaled, and nothing
    bounds the distance from ``t``: ``start`` and ``stop`` keep the method out of ranges where the predictor cannot
    tell timesteps apart. Costs one forward pass of the predictor, and beside a gradient method a second one of the
    denoiser.

    Args:
        predictor: See ``TimePredictorGuidance``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: When a sampler is made, beside another guidance that chooses the timestep.
    """

    cost = "denoiser 1 / 0, predictor 1 / 0"
    replaces_timestep = True

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        require_one_timestep(self, before)

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        with torch.no_grad():
            timesteps = self.log_posterior(x, step).argmax(1)
        return predict(x, timesteps)
