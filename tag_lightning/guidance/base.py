"""Guidance towards a condition, the base of every method that follows a predictor's gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Run, Step
from tag_lightning.guidance.conditions import Condition, JointCondition, joined

__all__ = ["ConditionedGuidance", "Guidance"]


class ConditionedGuidance(Guidance):
    """Guidance towards samples that satisfy a condition.

    Args:
        condition: The condition on clean samples; or the name of one of the run's conditions, or several names, whose
            log-likelihoods are summed. None takes all conditions of the run (see ``for_run``).
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    needs_grad = True

    def __init__(
        self, condition: Condition | JointCondition | str | Sequence[str] | None = None, **interval: Any
    ) -> None:
        super().__init__(**interval)
        self.condition = condition

    def for_run(self, run: Run) -> Self:
        """As ``Guidance.for_run``; looks the names of conditions up in ``run.conditions``.

        Raises:
            ValueError: If the run has no condition, or none of that name.
        """
        if isinstance(self.condition, Condition | JointCondition):
            return self
        if self.condition is None and not run.conditions:
            raise ValueError(f"{type(self).__name__} has no condition: pass condition=..., or give the run a guide")
        names = list(run.conditions) if self.condition is None else self.condition
        ready = copy.copy(self)
        ready.condition = joined([names] if isinstance(names, str) else names, run.conditions)
        return ready

    def log_likelihood(self, x0: Tensor, **inputs: Tensor) -> Tensor:
        """``log p(c | x0)`` up to a constant, ``[B]``, for clean samples ``x0 [B, ...]``.

        Raises:
            ValueError: If the condition is open, or only a name.
        """
        if not isinstance(self.condition, Condition | JointCondition):
            has = "no condition" if self.condition is None else f"only the name of its condition, {self.condition!r}"
            raise ValueError(f"{type(self).__name__} has {has}: pass a Condition, or call for_run with one")
        return self.condition.log_likelihood(x0, **inputs)

    def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """``grad_x log p(c | x0_hat(x))`` through the denoiser, ``[B, ...]``, projected onto the space.

        Args:
            x: Noisy samples ``[B, ...]`` that require grad.
            prediction: The prediction for ``x``, with its graph.
            step: The step they are at.
        """
        with torch.enable_grad():
            log_likelihood = self.log_likelihood(prediction.x0, **step.space.inputs)
            step.require_finite(log_likelihood, "the guide")
            # Other guidances of the same step may differentiate this prediction as well.
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), x, retain_graph=True)
        return step.space.project(step.require_finite(gradient, "the gradient of the guide"))

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """The move of ``x [B, ...]`` itself that this guidance asks for; by default its gradient."""
        return self.gradient(x, prediction, step)

    def look_ahead(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """``displacement`` for samples ``x [B, ...]`` that were not denoised yet, at the cost of a guided call."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            prediction = predict(x, step.timestep)
            step.require_finite(prediction.epsilon, "the denoiser")
            return self.displacement(x, prediction, step)
