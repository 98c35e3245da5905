"""Solvers: from a prediction at one timestep to a proposal for the next."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from tag_lightning.diffusion.denoiser import Prediction
from tag_lightning.diffusion.guidance import Predict
from tag_lightning.diffusion.reverse_process import Proposal, Step


class Solver(ABC):
    """Proposes the next sample from a prediction.

    Attributes:
        is_stochastic: The proposals have noise, except that of the step that ends at the data.
        reads_noise: The proposals depend on the prediction's ``epsilon`` beside its ``x0``.
    """

    is_stochastic: bool = False
    reads_noise: bool = False

    @abstractmethod
    def propose(self, x: Tensor, prediction: Prediction, step: Step, predict: Predict) -> Proposal:
        """Propose samples for ``step.next_timestep``.

        Args:
            x: The noisy samples, ``[B, ...]``.
            prediction: The guided prediction for them, ``x0`` inside the range of the space.
            step: The step; ``step.state`` is the solver's memory, ``step.noise()`` its noise.
            predict: The guided denoiser, for solvers that evaluate it more than once per step.
        """


class DDIM(Solver):
    """The reverse step of Song et al. 2021 (arXiv 2010.02502, Eq. 12 and 16).

    Args:
        eta: 0 follows the deterministic ODE, 1 is the ancestral sampling of DDPM.

    Raises:
        ValueError: If ``eta`` is outside [0, 1].
    """

    reads_noise = True

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {eta}")
        self.eta = eta
        self.is_stochastic = eta > 0

    def propose(self, x: Tensor, prediction: Prediction, step: Step, predict: Predict) -> Proposal:
        a, a_next = step.alpha_bar, step.next_alpha_bar
        std = self.eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
        direction = math.sqrt(max(0.0, 1 - a_next - std**2))
        mean = math.sqrt(a_next) * prediction.x0 + direction * prediction.epsilon
        return Proposal(mean, std, step.noise() if std > 0 else torch.zeros_like(mean))


class DPMSolverPlusPlus(Solver):
    """DPM-Solver++(2M), multistep of second order in x0 (Lu et al. 2022, arXiv 2211.01095, Algorithm 2).

    The first step and the one that ends at the data are of first order, as in diffusers. A step that recurrence
    repeats replaces its own entry in the history.
    """

    def propose(self, x: Tensor, prediction: Prediction, step: Step, predict: Predict) -> Proposal:
        if prediction.alpha_bar is not None:  # the sample as it would be with the noise that this timestep should have
            x = math.sqrt(step.alpha_bar) * prediction.x0 + math.sqrt(1 - step.alpha_bar) * prediction.epsilon
        x0, std = self._extrapolated(prediction.x0, step), self._std(step)
        decay = math.sqrt(max(0.0, 1 - step.next_alpha_bar - std**2)) / math.sqrt(1 - step.alpha_bar)
        weight = math.sqrt(step.next_alpha_bar) - decay * math.sqrt(step.alpha_bar)
        mean = decay * x + weight * x0
        return Proposal(mean, std, step.noise() if std > 0 else torch.zeros_like(mean))

    def _std(self, step: Step) -> float:
        return 0.0

    @staticmethod
    def _extrapolated(x0: Tensor, step: Step) -> Tensor:
        """``x0 + (x0 - x0_before) h / (2 h_before)``, the midpoint form."""
        here, there = _half_log_snr(step.alpha_bar), _half_log_snr(step.next_alpha_bar)
        if step.pass_index == 0:
            step.state["before"] = step.state.get("latest")
        step.state["latest"] = (x0, here)
        before = step.state["before"]
        if before is None or step.next_timestep is None:
            return x0
        return x0 + (x0 - before[0]) * (there - here) / (2 * (here - before[1]))


class DPMSolverPlusPlusSDE(DPMSolverPlusPlus):
    """SDE-DPM-Solver++(2M), the stochastic variant (Lu et al. 2022, arXiv 2211.01095, App. D.4)."""

    is_stochastic = True

    def _std(self, step: Step) -> float:
        h = _half_log_snr(step.next_alpha_bar) - _half_log_snr(step.alpha_bar)
        return math.sqrt((1 - step.next_alpha_bar) * (1 - math.exp(-2 * h)))


def _half_log_snr(alpha_bar: float) -> float:
    return math.inf if alpha_bar >= 1 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))
