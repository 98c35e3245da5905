"""Temporal Alignment Guidance (arXiv 2510.11057)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step, require_finite
from tag_lightning.guidance.base import per_sample
from tag_lightning.guidance.strengths import (
    ConstantStrength,
    Evidence,
    PolyakStrength,
    Strength,
    omega_of,
    require_strength,
)
from tag_lightning.guidance.training_free import DPS


class TemporalAlignment(Guidance):
    """Moves each sample towards the marginal of its own timestep before it is denoised (Algorithm 1).

    ``x_t <- x_t + omega * grad_x log p(t | x_t)``. Costs one forward and one backward pass of the
    predictor a step.

    Args:
        predictor: ``[B, ...] -> logits [B, T]`` over the training timesteps, called with the inputs of the
            space as keyword arguments. None takes the time predictor of the run (see ``bind``).
        strength: The factor ``omega``: a constant number, a ``Strength``, or any callable
            ``(evidence, step) -> omega``. Rules that need to know the typical likelihood of real data read
            the predictor's ``typical_nll [T]``. None takes that of the run, or else ``PolyakStrength()``.
        conditions: The correction is evaluated at the sample already moved by these, in order, each at the
            cost of a guided denoiser call, as for several conditions in the paper; its gradient is taken there,
            not through the moves. Without them it is evaluated at the sample as it comes.

    Raises:
        ValueError: If a constant strength is negative or not finite.
    """

    resources = ("predictor",)

    def __init__(
        self,
        predictor: nn.Module | None = None,
        strength: float | Strength | None = None,
        conditions: Sequence[DPS] = (),
    ) -> None:
        self.predictor = predictor
        self.strength = _as_rule(strength)
        self.conditions = tuple(conditions)

    def bind(self, **resources: Any) -> Self:
        bound = super().bind(**resources)
        bound.strength = _as_rule(bound.strength)
        bound.conditions = tuple(c.bind(**resources) for c in self.conditions)
        return bound

    def require_complete(self) -> None:
        super().require_complete()
        for condition in self.conditions:
            condition.require_complete()

    def time_linked_score(self, x: Tensor, timestep: int, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        """``grad_x log p(timestep | x)`` (Theorem 3.3), under any gradient mode, inference mode included.

        Args:
            x: Noisy samples ``[B, ...]``.
            timestep: The training timestep they should be at.
            inputs: Further keyword arguments of the predictor.

        Returns:
            The shape of ``x``.

        Raises:
            NonFiniteError: If the predictor returns NaN or infinity.
        """
        with torch.inference_mode(False):  # where tensors made under it, which autograd refuses, can be cloned
            given = {name: value.clone() for name, value in (inputs or {}).items()}
            return self._evidence(x.clone(), timestep, given).score

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        moved = x
        for condition in self.conditions:
            moved = moved + condition.look_ahead(moved, step, predict)
        return x + self._correction(moved, step)

    def _correction(self, x: Tensor, step: Step) -> Tensor:
        evidence = self._evidence(x, step.timestep, step.space.inputs)
        evidence = evidence._replace(score=step.space.project(evidence.score))
        rule = self.strength or PolyakStrength()
        return per_sample(omega_of(rule, evidence, step), x) * evidence.score

    def _evidence(self, x: Tensor, timestep: int, inputs: Mapping[str, Tensor]) -> Evidence:
        self.require_complete()
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            assert self.predictor is not None
            logits = require_finite(self.predictor(x, **inputs), "the time predictor", timestep)
            if timestep >= logits.shape[1]:
                raise ValueError(
                    f"the time predictor knows {logits.shape[1]} timesteps but the sample is at {timestep}; "
                    "it must be trained with the schedule of the denoiser"
                )
            log_likelihood = logits.log_softmax(1)[:, timestep]
            (score,) = torch.autograd.grad(log_likelihood.sum(), x)
        require_finite(score, "the gradient of the time predictor", timestep)
        return Evidence(-log_likelihood.detach(), score, self._typical_nll(timestep))

    def _typical_nll(self, timestep: int) -> Tensor | None:
        typical = getattr(self.predictor, "typical_nll", None)
        if typical is None or bool(torch.isnan(typical[timestep])):
            return None
        return typical[timestep]


class TemporalAlignmentAfterStep(TemporalAlignment):
    """TAG applied to the result of each reverse step, at the timestep reached (Algorithm 2).

    The last step reaches the data, which has no timestep, and is left alone. Applying TAG before the
    denoiser repaired samples slightly better in our trials.

    Raises:
        ValueError: If ``conditions`` are given, which need the denoiser before the step.
    """

    def __init__(
        self,
        predictor: nn.Module | None = None,
        strength: float | Strength | None = None,
    ) -> None:
        super().__init__(predictor, strength)

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return x

    def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        if step.next_timestep is None:
            return x_next
        return x_next + self._correction(x_next, step.reached())


def _as_rule(
    strength: float | Callable[[Evidence, Step], Tensor | float] | None,
) -> Callable[[Evidence, Step], Tensor | float] | None:
    if strength is None or callable(strength):
        return strength
    return ConstantStrength(require_strength("strength", strength))
