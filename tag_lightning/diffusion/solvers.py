"""Solvers: from a prediction at one timestep to the distribution of the sample at the next."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from tag_lightning.diffusion.denoiser import Prediction
from tag_lightning.diffusion.steps import Step, Transition


class Solver(ABC):
    """Proposes the next sample from a prediction."""

    @abstractmethod
    def transition(self, prediction: Prediction, step: Step) -> Transition:
        """The distribution of the sample at ``step.next_timestep``."""


class DDIM(Solver):
    """The reverse step of Song et al. 2021 (Eq. 12 and 16).

    Args:
        eta: 0 follows the deterministic ODE, 1 is DDPM's ancestral sampling.

    Raises:
        ValueError: If ``eta`` is outside [0, 1].
    """

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        self.eta = eta

    def transition(self, prediction: Prediction, step: Step) -> Transition:
        """Mean ``sqrt(a') x0 + sqrt(1 - a' - std^2) epsilon`` and its standard deviation."""
        a, a_next = step.alpha_cumprod, step.next_alpha_cumprod
        std = self.eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
        direction = math.sqrt(max(0.0, 1 - a_next - std**2))
        return Transition(math.sqrt(a_next) * prediction.x0 + direction * prediction.epsilon, std)
