"""Disturbances that push samples off their manifold, to study methods that bring them back."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Proposal, Step
from tag_lightning.guidance.time_posterior import with_noise

# Rounded noise stays within this many standard deviations.
_LARGEST_NOISE = 4.0


class Corruption(Guidance):
    """Adds ``sigma * N(0, I)`` to the samples before every reverse step (arXiv 2510.11057, Algorithm 2).

    Args:
        sigma: Standard deviation, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``sigma`` is negative or not finite.
    """

    steers = False

    def __init__(self, sigma: float, **interval: Any) -> None:
        super().__init__(**interval)
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be a finite number of at least 0, got {sigma}")
        self.sigma = sigma

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return x + self.sigma * step.noise()


class Drift(Guidance):
    """Multiplies the samples by ``1 + rate`` after every reverse step, as in the toy experiment of arXiv 2510.11057.

    Args:
        rate: Negative values pull towards the origin.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``rate`` is not finite.
    """

    steers = False
    needs_prediction = False

    def __init__(self, rate: float, **interval: Any) -> None:
        super().__init__(**interval)
        if not math.isfinite(rate):
            raise ValueError(f"rate must be finite, got {rate}")
        self.rate = rate

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        factor = 1 + self.rate
        return Proposal(factor * proposal.mean, factor * proposal.std, proposal.noise)


class Quantisation(Guidance):
    """Rounds the predicted noise to ``2^bits`` levels between -4 and 4, as a denoiser of few bits would answer.

    ``x0`` follows the rounded noise. Gradients pass the rounding as if it were not there.

    Args:
        bits: Bits per coordinate, at least 1.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``bits`` is below 1.
    """

    steers = False

    def __init__(self, bits: int, **interval: Any) -> None:
        super().__init__(**interval)
        if bits < 1:
            raise ValueError(f"bits must be at least 1, got {bits}")
        self.bits = bits

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        epsilon = prediction.epsilon
        width = 2 * _LARGEST_NOISE / 2**self.bits
        centre = ((epsilon.detach() / width).floor() + 0.5) * width
        rounded = centre.clamp(width / 2 - _LARGEST_NOISE, _LARGEST_NOISE - width / 2)
        rounded = step.space.project(rounded)
        return with_noise(prediction, epsilon + (rounded - epsilon).detach(), step)
