"""Predicted noise scaled down."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step, per_sample


class EpsilonScaling(Guidance):
    """Epsilon scaling (Ning et al. 2024, arXiv 2308.15321): ``epsilon / lambda_t``, against the exposure bias.

    ``lambda_t = scale + slope t / T`` with the training timestep t, so that the course does not depend on the number of
    steps; ``slope = 0`` is the paper's uniform schedule. ``x0`` follows the scaled noise. Costs nothing.

    Args:
        scale: ``lambda`` at the data, above 0; 1 (with ``slope`` 0) changes nothing, slightly above 1 is published.
        slope: Increase of ``lambda`` from the data to pure noise.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``lambda`` is not a positive finite number at either end.
    """

    steers = False

    def __init__(self, scale: float = 1.005, slope: float = 0.0, **interval: Any) -> None:
        super().__init__(**interval)
        for name, value in {"scale": scale, "scale + slope": scale + slope}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {value}")
        self.scale, self.slope = scale, slope

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        factor = self.scale + self.slope * (step.timestep / step.num_timesteps)
        return prediction.with_epsilon(prediction.epsilon / per_sample(factor, x), step)
