"""Conditions on clean samples as log-likelihoods, and the base of every guidance that follows their gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag_lightning.diffusion import Guidance, Predict, Prediction, Proposal, Run, Step, on_device


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-probability of class ``target [B]`` under logits ``output [B, K]``, ``[B]``."""
    return F.cross_entropy(output, target, reduction="none")


def residual_norm(output: Tensor, target: Tensor) -> Tensor:
    """Euclidean distance of a measurement ``output`` from ``target``, both ``[B, ...]``, ``[B]``.

    The loss of restoration tasks (Chung et al. 2023), where ``output`` is the blurred or masked sample.

    Raises:
        ValueError: If the shapes differ, which broadcasting would hide.
    """
    if output.shape != target.shape:
        raise ValueError(f"the operator gives {list(output.shape)}, but the measurement is {list(target.shape)}")
    return (output - target).flatten(1).norm(dim=1)


def half_squared_residual(output: Tensor, target: Tensor) -> Tensor:
    """Half the square of ``residual_norm``, ``[B]``: the loss of a Gaussian likelihood of unit variance."""
    return residual_norm(output, target).square() / 2


class SquaredError:
    """Squared error of quantities in units of their spread, summed: the loss of property guidance (Ye et al. 2024).

    Args:
        spread: Unit of the error, in the unit of each quantity, ``[K]`` or one number above 0.
    """

    def __init__(self, spread: Tensor | float) -> None:
        self.spread = torch.as_tensor(spread)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """``[B]`` for ``output`` and ``target``, both ``[B]`` or ``[B, K]``."""
        error = (output - target) / on_device(self.spread, output.device, output.dtype)
        return error.square().reshape(len(error), -1).sum(1)


class Condition:
    """A predictor on clean samples, a loss and a target: ``log p(c | x0) = -loss(predictor(x0), target)``.

    Args:
        predictor: Called on clean samples ``x0 [B, ...]`` with the inputs of the space.
        target: One target per sample, ``[B, ...]``.
        loss: ``(output, target) -> [B]``.
        num_measured: Number of measured entries in each sample's target, if the rest is filled in as for inpainting;
            None means all.
    """

    def __init__(
        self,
        predictor: nn.Module,
        target: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        num_measured: int | None = None,
    ) -> None:
        self.predictor = predictor
        with torch.inference_mode(False):  # a target made under inference mode could not be differentiated against
            self.target = torch.as_tensor(target).clone()
        self.loss = loss
        self.num_measured = self.target.shape[1:].numel() if num_measured is None else num_measured

    def log_likelihood(self, x0: Tensor, **inputs: Tensor) -> Tensor:
        """``log p(c | x0)`` up to a constant, ``[B]``, for clean samples ``x0 [B, ...]``."""
        output, target = self.predictor(x0, **inputs), self.target
        if target.device != output.device:
            target = on_device(target, output.device)
        return -self.loss(output, target)


class JointCondition:
    """Several conditions at once: the sum of their log-likelihoods.

    Args:
        conditions: At least one.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        if not conditions:
            raise ValueError("JointCondition needs at least one condition")
        self.conditions = tuple(conditions)

    def log_likelihood(self, x0: Tensor, **inputs: Tensor) -> Tensor:
        """The sum over the conditions, ``[B]``, for clean samples ``x0 [B, ...]``."""
        total = self.conditions[0].log_likelihood(x0, **inputs)
        for condition in self.conditions[1:]:
            total = total + condition.log_likelihood(x0, **inputs)
        return total


def joined(names: Sequence[str], available: Mapping[str, Condition]) -> Condition | JointCondition:
    """The condition of that name, or the joint one of several names.

    Raises:
        ValueError: If ``available`` lacks one of them.
    """
    unknown = [name for name in names if name not in available]
    if unknown:
        known = ", ".join(available) or "none at all"
        raise ValueError(f"the guide of this run has no condition {unknown[0]!r}; it offers {known}")
    chosen = [available[name] for name in names]
    return chosen[0] if len(chosen) == 1 else JointCondition(chosen)


Conditions: TypeAlias = Condition | JointCondition | str | Sequence[str] | None
"""A condition, the name of one of the run's or several names, or None for all conditions of the run."""


def condition_for_run(condition: Conditions, run: Run, owner: str) -> Condition | JointCondition:
    """The condition itself, or that of the run by its name; None is all conditions of the run.

    Args:
        condition: The condition as it was given.
        run: The run.
        owner: Name of the class that asks, for the error.

    Raises:
        ValueError: If the run has no condition, or none of that name.
    """
    if isinstance(condition, Condition | JointCondition):
        return condition
    if condition is None and not run.conditions:
        raise ValueError(f"{owner} has no condition: pass condition=..., or give the run a guide")
    names = list(run.conditions) if condition is None else condition
    return joined([names] if isinstance(names, str) else names, run.conditions)


class ConditionedGuidance(Guidance):
    """Guidance towards samples that satisfy a condition.

    Args:
        condition: The condition on clean samples; or the name of one of the run's conditions, or several names, whose
            log-likelihoods are summed. None takes all conditions of the run (see ``for_run``).
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Attributes:
        guide_clipped: The guide sees ``x0_hat`` inside the range of the space and is differentiated through the clamp,
            as in the published code of TFG. Otherwise it sees the estimate as it is. The solver clips in both cases.
    """

    cost = "denoiser 1 / 1, guide 1 / 1"
    needs_grad = True
    guide_clipped: bool = False
    condition: Conditions = None

    def __init__(self, condition: Conditions = None, **interval: Any) -> None:
        super().__init__(**interval)
        self.condition = condition

    def for_run(self, run: Run) -> Self:
        """As ``Guidance.for_run``; looks the names of conditions up in ``run.conditions``.

        Raises:
            ValueError: If the run has no condition, or none of that name.
        """
        if isinstance(self.condition, Condition | JointCondition):
            return self
        ready = copy.copy(self)
        ready.condition = condition_for_run(self.condition, run, type(self).__name__)
        return ready

    def smoothed(self, x0: Tensor, step: Step) -> Tensor:
        """The likelihood whose gradient is followed: ``log p(c | x0)`` up to a constant, ``[B]``.

        Methods that average over noise override it, and those that ask about noisy samples.

        Raises:
            ValueError: If the condition is open, or only a name.
        """
        if not isinstance(self.condition, Condition | JointCondition):
            raise self._without_condition()
        return self.condition.log_likelihood(step.space.decode(x0), **step.space.inputs)

    def _without_condition(self) -> ValueError:
        has = "no condition" if self.condition is None else f"only the name of its condition, {self.condition!r}"
        return ValueError(f"{type(self).__name__} has {has}: pass a Condition, or call for_run with one")

    def clean_estimate(self, prediction: Prediction, step: Step) -> Tensor:
        """``x0_hat [B, ...]`` as the guide sees it, with its graph."""
        return step.space.clip(prediction.x0) if self.guide_clipped else prediction.x0

    def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """``grad_x log p(c | x0_hat(x))`` through the denoiser, ``[B, ...]``, projected onto the space.

        Args:
            x: Noisy samples ``[B, ...]`` that require grad.
            prediction: The prediction for ``x``, with its graph.
            step: The step they are at.
        """
        with torch.enable_grad():
            log_likelihood = self.smoothed(self.clean_estimate(prediction, step), step)
            # Other guidances of the same step may differentiate this prediction as well.
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), x, retain_graph=True)
        step.checks.require_finite(step.timestep, the_guide=log_likelihood, the_gradient_of_the_guide=gradient)
        return step.space.project(gradient)

    def gradient_at(self, x0: Tensor, step: Step) -> Tensor:
        """The gradient of ``smoothed`` at ``x0 [B, ...]`` itself, without the denoiser, projected onto the space."""
        with torch.enable_grad():
            x0 = x0.detach().requires_grad_(True)
            log_likelihood = self.smoothed(x0, step)
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), x0)
        step.checks.require_finite(step.timestep, the_guide=log_likelihood, the_gradient_of_the_guide=gradient)
        return step.space.project(gradient)

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """The move of the mean of ``proposal`` that this guidance asks for, ``[B, ...]``; see ``propose``.

        Methods that move the mean override it, and wrappers change it. It is not the difference of two means, which
        would round away a move that is much shorter than they are.

        Raises:
            NotImplementedError: If this guidance does not say how it moves the mean.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it moves the mean; give it a mean_move")

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """The move of ``x [B, ...]`` itself that this guidance asks for; by default its gradient."""
        return self.gradient(x, prediction, step)

    def look_ahead(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """``displacement`` for samples ``x [B, ...]`` that were not denoised yet, at the cost of a guided call."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            prediction = predict(x, step.timestep)
            step.checks.require_finite(step.timestep, the_denoiser=prediction.epsilon)
            if self.needs_grad and not prediction.x0.requires_grad:
                raise ValueError(
                    f"{type(self).__name__} cannot look ahead through a guidance that predicts without a graph; put "
                    "TAG with its conditions before that guidance in the list"
                )
            return self.displacement(x, prediction, step)
