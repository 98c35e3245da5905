"""Conditions on clean samples, as log-likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-probability of class ``target [B]`` under logits ``output [B, K]``, ``[B]``."""
    return F.cross_entropy(output, target, reduction="none")


def residual_norm(output: Tensor, target: Tensor) -> Tensor:
    """Euclidean distance of a measurement ``output`` from ``target``, both ``[B, ...]``, ``[B]``.

    The loss of restoration tasks (Chung et al. 2023), where ``output`` is the blurred or masked sample.
    """
    return (output - target).flatten(1).norm(dim=1)


class SquaredError:
    """Squared error of quantities in units of their spread, summed: the loss of property guidance (Ye et al. 2024).

    Args:
        spread: Unit of the error, in the unit of each quantity, ``[K]`` or one number above 0.
    """

    def __init__(self, spread: Tensor | float) -> None:
        self.spread = torch.as_tensor(spread)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """``[B]`` for ``output`` and ``target``, both ``[B]`` or ``[B, K]``."""
        error = (output - target) / self.spread.to(output)
        return error.square().reshape(len(error), -1).sum(1)


class Condition:
    """A predictor on clean samples, a loss and a target: ``log p(c | x0) = -loss(predictor(x0), target)``.

    Args:
        predictor: Called on clean samples ``x0 [B, ...]`` with the inputs of the space.
        target: One target per sample, ``[B, ...]``.
        loss: ``(output, target) -> [B]``.
    """

    def __init__(
        self,
        predictor: nn.Module,
        target: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    ) -> None:
        self.predictor = predictor
        with torch.inference_mode(False):  # a target made under inference mode could not be differentiated against
            self.target = target.clone()
        self.loss = loss

    def log_likelihood(self, x0: Tensor, **inputs: Tensor) -> Tensor:
        """``log p(c | x0)`` up to a constant, ``[B]``, for clean samples ``x0 [B, ...]``."""
        return -self.loss(self.predictor(x0, **inputs), self.target)


class JointCondition:
    """Several conditions at once: the sum of their log-likelihoods.

    Args:
        conditions: At least one.
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
        raise ValueError(f"there is no condition {unknown[0]!r}; the guide of this run offers {known}")
    chosen = [available[name] for name in names]
    return chosen[0] if len(chosen) == 1 else JointCondition(chosen)
