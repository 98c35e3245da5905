"""Disturbances that push samples off their manifold, to study methods that bring them back."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Proposal, Step
from tag_lightning.diffusion.arguments import require_non_negative

# Rounded noise stays within this many standard deviations.
# Widths for 1 to 8 bits (Max 1960, "Quantizing for minimum distortion", Table II).
_WIDTHS = (1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)


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
        require_non_negative("sigma", sigma)
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
    """Rounds the predicted noise to ``2^bits`` equally spaced levels, as a denoiser of few bits would answer.

    Their spacing has the least mean squared error for white noise, so that no rescaling makes up for the rounding.
    ``x0`` follows the rounded noise. Gradients pass the rounding as if it were not there.

    Args:
        bits: Bits per coordinate, 1 to 8.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``bits`` is out of range.
    """

    steers = False

    def __init__(self, bits: int, **interval: Any) -> None:
        super().__init__(**interval)
        if not 1 <= bits <= len(_WIDTHS):
            raise ValueError(f"bits must be 1 to {len(_WIDTHS)}, got {bits}")
        self.bits = bits

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        epsilon = prediction.epsilon
        width, half = _WIDTHS[self.bits - 1], 2 ** (self.bits - 1)
        level = (epsilon.detach() / width).floor().clamp(-half, half - 1) + 0.5
        rounded = step.space.project(level * width)
        return prediction.with_epsilon(epsilon + (rounded - epsilon).detach(), step)
