"""Temporal Alignment Guidance (arXiv 2510.11057)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import BoxSpace, Guidance, Predict, Prediction, Proposal, Run, SampleNoise, Step
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.strengths import Evidence, PolyakStrength, Strength, StrengthRule, as_rule, omega

# The number of timesteps where no denoiser tells it.
_UNKNOWN = 0


class TemporalAlignment(Guidance):
    """Moves each sample towards the marginal of its own timestep before it is denoised (Algorithm 1).

    ``x_t <- x_t + omega * grad_x log p(t | x_t)``. Costs one forward and one backward pass of the predictor per step.

    Args:
        predictor: ``[B, ...] -> logits [B, T]`` over the training timesteps, called with the inputs of the space as
            keyword arguments. None takes the time predictor of the run (see ``for_run``).
        strength: The factor ``omega``: a constant number, a ``Strength``, or any callable
            ``(evidence, step) -> omega``. Rules that compare with real data read the predictor's ``typical_nll [T]``.
            None is the strength of the run, ``PolyakStrength()`` unless it states another.
        conditions: Conditioned guidances that look ahead. The correction is evaluated at the sample already moved by
            them, in order, as for several conditions in the paper, and applied to the sample itself. Each costs a
            guided denoiser call. The gradient is not taken through these moves.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If a constant strength is negative or not finite.
    """

    def __init__(
        self,
        predictor: nn.Module | None = None,
        strength: float | Strength | None = None,
        conditions: Sequence[ConditionedGuidance] = (),
        **interval: Any,
    ) -> None:
        super().__init__(**interval)
        self.predictor = predictor
        self.strength: StrengthRule = PolyakStrength() if strength is None else as_rule(strength)
        self.conditions = tuple(conditions)
        self._strength_is_open = strength is None

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        if ready.predictor is None:
            ready.predictor = run.predictor
        if self._strength_is_open and run.strength is not None:
            ready.strength = as_rule(run.strength)
        ready.conditions = tuple(condition.for_run(run) for condition in self.conditions)
        if ready.predictor is None:
            raise ValueError(f"{type(self).__name__} has no predictor: pass predictor=..., or give the run one")
        return ready

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
        with torch.inference_mode(False):  # inference tensors, which autograd refuses, can be cloned outside it
            x, indices = x.clone(), range(len(x))
            space = BoxSpace(x.shape[1:], indices, x.device, x.dtype)
            space.inputs = {name: value.clone() for name, value in (inputs or {}).items()}
            step = Step(0, timestep, None, math.nan, 1.0, _UNKNOWN, (), space, SampleNoise(0, indices))
            score = self.evidence(x, step).score
        step.checks.settle()
        return score

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        moved = x
        for place, condition in enumerate(self.conditions):
            if condition.acts(step.timestep):
                view = replace(step, state=step.state.setdefault(f"condition {place}", {}))
                moved = moved + condition.look_ahead(moved, view, predict)
        evidence = self.evidence(moved, step)
        return x + omega(self.strength, evidence, step) * evidence.score

    def evidence(self, x: Tensor, step: Step) -> Evidence:
        """The predictor's judgement of noisy samples ``x [B, ...]`` that should be at ``step.timestep``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            evidence = self.likelihood(x, step)
            (gradient,) = torch.autograd.grad(evidence.nll.sum(), x)
        step.checks.require_finite(step.timestep, the_gradient_of_the_time_predictor=gradient)
        return evidence._replace(nll=evidence.nll.detach(), score=step.space.project(-gradient))

    def likelihood(self, x: Tensor, step: Step) -> Evidence:
        """The evidence without its score, which is zero: a forward pass alone, recorded under grad."""
        if self.predictor is None:
            raise ValueError(f"{type(self).__name__} has no predictor: pass predictor=..., or give the run one")
        t, total = step.timestep, step.num_timesteps
        logits = self.predictor(x, **step.space.inputs)
        known = logits.shape[1]
        if t >= known or total not in (known, _UNKNOWN):
            other = f"the sample is at {t}" if total == _UNKNOWN else f"the denoiser has {total}"
            raise ValueError(
                f"the time predictor knows {known} timesteps but {other}; it must be trained with the schedule of "
                "the denoiser"
            )
        step.checks.require_finite(t, the_time_predictor=logits)
        typical, quantiles = real_nll(self.predictor, step)
        return Evidence(-logits.log_softmax(1)[:, t], torch.zeros_like(x), typical, quantiles)


def real_nll(predictor: nn.Module, step: Step) -> tuple[Tensor | None, dict[float, Tensor]]:
    """Mean and quantiles of ``-log p(t | x_t)`` of real data at the step's timestep, as far as they were measured."""
    mean: Any = getattr(predictor, "typical_nll", None)
    rows: Any = getattr(predictor, "nll_quantiles", None)
    if "measured" not in step.state:  # read once per run, in one transfer, since it waits for the device
        known = [] if mean is None else [mean.isfinite()]
        known += [] if mean is None or rows is None else [rows.isfinite().all(0)]
        step.state["measured"] = torch.stack(known).tolist() if known else []
    measured: list[bool] = [row[step.timestep] for row in step.state["measured"]]
    typical = mean[step.timestep] if measured and measured[0] else None
    if len(measured) < 2 or not measured[1]:
        return typical, {}
    return typical, dict(zip(predictor.quantile_levels, rows[:, step.timestep], strict=True))  # type: ignore[arg-type]


class TemporalAlignmentAfterStep(TemporalAlignment):
    """TAG applied to the result of each reverse step, at the timestep reached (Algorithm 2).

    The last step reaches the data, which has no timestep, and is left alone. Applying TAG before the denoiser repaired
    samples slightly better in our trials.

    Args:
        predictor: See ``TemporalAlignment``.
        strength: See ``TemporalAlignment``.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    def __init__(
        self, predictor: nn.Module | None = None, strength: float | Strength | None = None, **interval: Any
    ) -> None:
        super().__init__(predictor, strength, **interval)

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return x

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        if step.next_timestep is None:
            return proposal
        reached = step.reached()
        evidence = self.evidence(proposal.sample, reached)
        return proposal.moved(omega(self.strength, evidence, reached) * evidence.score)
