"""Guidance by a predictor on clean samples, without training anything on noisy ones: TFG."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tag_lightning.diffusion import Prediction, Proposal, Recurrence, Step, per_sample
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import ConditionedGuidance, Conditions

StepSchedule = Literal["increase", "decrease", "constant"]
"""Proportional to ``a / a'``, to ``1 - a / a'``, or constant, scaled to a mean of 1 over the steps of the run."""


class TFG(ConditionedGuidance):
    """The family of training-free guidance (Ye et al. 2024, arXiv 2409.15761, Algorithm 1).

    With ``L(x0) = log p(c | x0)`` smoothed to ``L~(x0) = log mean_k exp L(x0 + gamma_t noise_k)``, ``a`` and ``a'``
    the ``alphas_cumprod`` of this and the next timestep:

    - variance guidance ``Delta_t = rho_t grad_{x_t} L~(x0_hat(x_t))``, through the denoiser;
    - mean guidance ``x0 <- x0 + mu_t grad_{x0} L~(x0)``, several times, and ``Delta_0`` the sum of its moves;
    - ``x_{t_next} <- x_{t_next} + sqrt(a' / a) Delta_t + sqrt(a') Delta_0``.

    With ``rho = 0`` the denoiser runs no backward pass. The published code clips ``x0_hat`` first: variance guidance
    differentiates through the clamp, mean guidance starts from the clipped estimate and may leave the range again. That
    is ``guide_clipped``; without it both see the estimate as it is. The solver clips in both cases.

    Args:
        condition: See ``ConditionedGuidance``.
        rho: Mean strength of variance guidance, at least 0.
        mu: Mean strength of mean guidance, at least 0.
        gamma: Standard deviation of the smoothing at pure noise, at least 0.
        num_draws: K, noise draws of the smoothing, at least 1; each costs a pass of the guide.
        num_iterations: Moves of mean guidance per step, at least 1.
        rho_schedule: Course of ``rho_t``.
        mu_schedule: Course of ``mu_t``.
        clip: Longest gradient, as a root mean square over the sample's degrees of freedom, above 0. Near pure noise
            Tweedie's estimate, and so the gradient, grows like ``1 / sqrt(alphas_cumprod)``. None does not clip.
        guide_clipped: The guide sees ``x0_hat`` inside the range of the space, as above.
        recurrence: Number of times each step is taken.
        gamma_schedule: Course of the smoothing: ``gamma sqrt(1 - a)``, which decreases, or ``gamma`` at every step.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If a number is out of range, or a schedule unknown.
    """

    cost = "denoiser 1 / 1, guide K + K n / K + K n"

    def __init__(
        self,
        condition: Conditions = None,
        rho: float = 1.0,
        mu: float = 0.25,
        gamma: float = 0.0,
        num_draws: int = 1,
        num_iterations: int = 4,
        rho_schedule: StepSchedule = "increase",
        mu_schedule: StepSchedule = "increase",
        clip: float | None = None,
        guide_clipped: bool = False,
        recurrence: int = 1,
        gamma_schedule: Literal["decrease", "constant"] = "decrease",
        **interval: Any,
    ) -> None:
        super().__init__(condition, **interval)
        if gamma_schedule not in ("decrease", "constant"):
            raise ValueError(f"gamma_schedule must be decrease or constant, got {gamma_schedule!r}")
        self.gamma_schedule = gamma_schedule
        for name, value in {"rho": rho, "mu": mu, "gamma": gamma}.items():
            require_non_negative(name, value)
        for name, count in {"num_draws": num_draws, "num_iterations": num_iterations}.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        for name, schedule in {"rho_schedule": rho_schedule, "mu_schedule": mu_schedule}.items():
            if schedule not in get_args(StepSchedule):
                raise ValueError(f"{name} must be one of {', '.join(get_args(StepSchedule))}, got {schedule!r}")
        if clip is not None and not 0 < clip < math.inf:
            raise ValueError(f"clip must be a finite number above 0, or null for none, got {clip}")
        self.rho, self.mu, self.gamma = rho, mu, gamma
        self.num_draws, self.num_iterations = num_draws, num_iterations
        self.rho_schedule, self.mu_schedule = rho_schedule, mu_schedule
        self.clip = clip
        self.guide_clipped = guide_clipped
        self.needs_grad = rho > 0
        self.recurrence = Recurrence(recurrence) if recurrence != 1 else None

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        return proposal.moved(self.mean_move(proposal, x, prediction, step))

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """The move of the proposal's mean, ``[B, ...]``: ``sqrt(a' / a) Delta_t + sqrt(a') Delta_0``."""
        a, a_next = step.alpha_bar, step.next_alpha_bar
        return self.weighted(x, prediction, step, math.sqrt(a_next / a), math.sqrt(a_next))

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """The move of ``x [B, ...]`` itself: ``Delta_t + sqrt(a) Delta_0``."""
        return self.weighted(x, prediction, step, 1.0, per_sample(prediction.signal(step), x))

    def weighted(
        self, x: Tensor, prediction: Prediction, step: Step, variance: Tensor | float, mean: Tensor | float
    ) -> Tensor:
        """``variance Delta_t + mean Delta_0``, ``[B, ...]``, with weights that multiply ``x``."""
        move = torch.zeros_like(x)
        if self.rho > 0:
            move = move + variance * self.variance_displacement(x, prediction, step)
        if self.mu > 0:
            move = move + mean * self.mean_displacement(self.clean_estimate(prediction, step), step)
        return move

    def variance_displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """``Delta_t``, the move of ``x [B, ...]`` by variance guidance."""
        gradient = self.gradient(x, prediction, step)
        if self.clip is not None:
            gradient = _shortened(gradient, self.clip, step)
        strength = self.rho if self.rho_schedule == "constant" else _at_step(self.rho, self.rho_schedule, step)
        return strength * gradient

    def mean_displacement(self, x0: Tensor, step: Step) -> Tensor:
        """``Delta_0``, the move of the clean estimate ``x0 [B, ...]`` by mean guidance."""
        x0, strength = x0.detach(), _at_step(self.mu, self.mu_schedule, step)
        moved = x0
        for _ in range(self.num_iterations):
            gradient = self.mean_gradient(moved, step)
            if self.clip is not None:
                gradient = _shortened(gradient, self.clip, step)
            moved = moved + strength * gradient
        return moved - x0

    def mean_gradient(self, x0: Tensor, step: Step) -> Tensor:
        """``grad_{x0} L~(x0)`` for clean estimates ``x0 [B, ...]``, projected onto the space."""
        return self.gradient_at(x0, step)

    def smoothed(self, x0: Tensor, step: Step) -> Tensor:
        """``L~(x0)``, ``[B]``; ``L(x0)`` itself without smoothing."""
        if self.gamma == 0:
            return super().smoothed(x0, step)
        gamma = self.gamma * (1.0 if self.gamma_schedule == "constant" else math.sqrt(1 - step.alpha_bar))
        seen = super().smoothed
        draws = [seen(x0 + gamma * step.noise(), step) for _ in range(self.num_draws)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(self.num_draws)


def _shortened(gradient: Tensor, longest: float, step: Step) -> Tensor:
    length = gradient.flatten(1).norm(dim=1) / step.space.degrees_of_freedom.clamp(min=1).sqrt()
    return gradient * per_sample((longest / length).clamp(max=1), gradient)


def _at_step(strength: float, schedule: StepSchedule, step: Step) -> float:
    if schedule == "constant":
        return strength
    ratios = [a / a_next for a, a_next in step.levels]
    here = step.alpha_bar / step.next_alpha_bar
    if schedule == "increase":
        return strength * here * len(ratios) / sum(ratios)
    return strength * (1 - here) * len(ratios) / sum(1 - ratio for ratio in ratios)
