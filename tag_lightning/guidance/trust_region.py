"""Bounds on the move of one guided step, for any guidance that moves the proposed sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import Proposal, Step, per_sample
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.spherical import unit
from tag_lightning.guidance.wrapper import MoveWrapper

# Length of one move per step of a run together, as a fraction of the noise.
_TOTAL = 0.75


class TrustRegion(MoveWrapper):
    """Bounds the move of the proposed sample by a fraction of the noise that the step leaves in it.

    The move of sample i, with every factor of the wrapped method, is shortened to at most
    ``kappa sqrt(d (1 - a'))`` with d degrees of freedom and ``a'`` the ``alphas_cumprod`` of the next timestep. The
    step that ends at the data is not guided at all.

    Why a fraction of the noise: n i.i.d. Gaussian coordinates tell their noise level to a relative precision of
    ``1 / sqrt(2 d)``. A move of length ``kappa sigma sqrt(d)`` across the noise raises the level by the factor
    ``sqrt(1 + kappa^2)``, about ``kappa^2 / 2``, so that small ``kappa`` stays below what the denoiser, or a time
    predictor, can tell.

    Args:
        guidance: See ``MoveWrapper``.
        kappa: Longest move as a fraction of the noise, above 0; None is 0.75 over the run's number of steps.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If ``kappa`` is not a positive finite number, or ``guidance`` does not move the proposal's mean.
    """

    def __init__(self, guidance: ConditionedGuidance, kappa: float | None = None, **interval: Any) -> None:
        super().__init__(guidance, **interval)
        if kappa is not None and not 0 < kappa < math.inf:
            raise ValueError(f"kappa must be a finite number above 0, got {kappa}")
        self.kappa = kappa

    def changed(self, move: Tensor, proposal: Proposal, step: Step) -> Tensor:
        return self.bounded(move, 1 - step.next_alpha_bar, step)

    def displaced(self, move: Tensor, step: Step) -> Tensor:
        return self.bounded(move, 1 - step.alpha_bar, step)

    def longest(self, noise_power: float, step: Step) -> Tensor:
        """The length allowed where the noise has this power, ``[B]``."""
        return self.kappa_of_run(step) * (step.space.degrees_of_freedom * noise_power).sqrt()

    def kappa_of_run(self, step: Step) -> float:
        """``kappa``, or its default in this run."""
        return _TOTAL / len(step.levels) if self.kappa is None else self.kappa

    def bounded(self, move: Tensor, noise_power: float, step: Step) -> Tensor:
        """``move [B, ...]`` at no more than the length allowed where the noise has this power."""
        direction, longest = unit(move), self.longest(noise_power, step)
        length = (move * direction).flatten(1).sum(1)  # infinite, rather than wrong, where it is too long for a number
        within = per_sample((length <= longest).to(move), move)
        return torch.where(within > 0, move, direction * per_sample(longest, move))


class FixedLengthSteps(TrustRegion):
    """Moves of exactly the length that a ``TrustRegion`` allows, along the direction of the wrapped guidance.

    The limit of a ``TrustRegion`` at an infinite guidance scale: the scale is gone. The default length is inverse to
    the number of steps, so that few steps do about as much as many (measured on digits, 10 to 75 steps); further passes
    of a step are not counted.

    Args:
        guidance: See ``MoveWrapper``.
        kappa: Length of each move as a fraction of the noise, above 0; None is 0.75 over the run's number of steps.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If ``kappa`` is not a positive finite number, or ``guidance`` does not move the proposal's mean.
    """

    def __init__(self, guidance: ConditionedGuidance, kappa: float | None = None, **interval: Any) -> None:
        super().__init__(guidance, kappa, **interval)

    def bounded(self, move: Tensor, noise_power: float, step: Step) -> Tensor:
        return unit(move) * per_sample(self.longest(noise_power, step), move)
