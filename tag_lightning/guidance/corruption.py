"""Disturbances that push samples off their manifold, to study what repairs them."""

from __future__ import annotations

import math

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step


class Corruption(Guidance):
    """Adds ``sigma * N(0, I)`` to the samples before every reverse step (arXiv 2510.11057, Algorithm 2).

    Args:
        sigma: Standard deviation, at least 0.

    Raises:
        ValueError: If ``sigma`` is negative or not finite.
    """

    def __init__(self, sigma: float) -> None:
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be a finite number of at least 0, got {sigma}")
        self.sigma = sigma

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return x + self.sigma * step.noise()


class Drift(Guidance):
    """Multiplies the samples by ``1 + rate`` after every reverse step, as in the toy experiment of arXiv 2510.11057.

    Args:
        rate: Negative values pull towards the origin.
    """

    def __init__(self, rate: float) -> None:
        if not math.isfinite(rate):
            raise ValueError(f"rate must be finite, got {rate}")
        self.rate = rate

    def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return (1 + self.rate) * x_next
