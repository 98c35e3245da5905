"""Disturbances that push samples off their manifold, to study methods that bring them back."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Proposal, Step


class Corruption(Guidance):
    """Adds ``sigma * N(0, I)`` to the samples before every reverse step (arXiv 2510.11057, Algorithm 2).

    Args:
        sigma: Standard deviation, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``sigma`` is negative or not finite.
    """

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

    needs_prediction = False

    def __init__(self, rate: float, **interval: Any) -> None:
        super().__init__(**interval)
        if not math.isfinite(rate):
            raise ValueError(f"rate must be finite, got {rate}")
        self.rate = rate

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        factor = 1 + self.rate
        return Proposal(factor * proposal.mean, factor * proposal.std, proposal.noise)
