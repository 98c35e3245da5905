"""Temporal Alignment Guidance (arXiv 2510.11057)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import (
    BoxSpace,
    Denoiser,
    Guidance,
    Predict,
    Prediction,
    Proposal,
    Run,
    SampleNoise,
    Step,
)
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.own_step import OwnStep
from tag_lightning.guidance.strengths import Evidence, PolyakStrength, Strength, StrengthRule, as_rule, omega
from tag_lightning.guidance.time_posterior import UNKNOWN, TimePredictorGuidance


class TemporalAlignment(TimePredictorGuidance):
    """Moves each sample towards the marginal of its own timestep before it is denoised (Algorithm 1).

    ``x_t <- x_t + omega * grad_x log p(t | x_t)``. Costs one forward and one backward pass of the predictor per step.

    Args:
        predictor: ``[B, ...] -> logits [B, T]`` over the training timesteps, called with the inputs of the space as
            keyword arguments. None takes the time predictor of the run (see ``for_run``).
        strength: The factor ``omega``: a constant number, a ``Strength``, or any callable
            ``(evidence, step) -> omega``. Rules that compare with real data read the predictor's ``typical_nll [T]``.
        conditions: Conditioned guidances that look ahead. The correction is evaluated at the sample already moved by
            them, in order, as for several conditions in the paper, and applied to the sample itself. Each costs a
            guided denoiser call. The gradient is not taken through these moves.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If a constant strength is negative or not finite, or a condition takes a step of its own; when
            a sampler is made, if a condition cannot run with its denoiser.
    """

    cost = "denoiser 1 / 0, predictor 1 / 1"

    def __init__(
        self,
        predictor: nn.Module | None = None,
        strength: float | Strength = PolyakStrength(),
        conditions: Sequence[ConditionedGuidance] = (),
        **interval: Any,
    ) -> None:
        super().__init__(predictor, **interval)
        self.strength: StrengthRule = as_rule(strength)
        self.conditions = tuple(conditions)
        for own in (type(each).__name__ for each in self.conditions if isinstance(each, OwnStep)):
            raise ValueError(
                f"{type(self).__name__} cannot look ahead with {own}, which takes a step of its own; look ahead with a "
                "method such as DPS"
            )

    def for_run(self, run: Run) -> Self:
        ready = super().for_run(run)
        ready.conditions = tuple(condition.for_run(run) for condition in self.conditions)
        return ready

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        blind = [type(other).__name__ for other in before if not other.keeps_graph]
        looking = [type(condition).__name__ for condition in self.conditions if condition.needs_grad]
        if blind and looking:
            raise ValueError(
                f"{looking[0]} cannot look ahead through {blind[0]}, which predicts without a graph; put "
                f"{type(self).__name__} with its conditions before it in the list"
            )

    def require_denoiser(self, denoiser: Denoiser) -> None:
        super().require_denoiser(denoiser)
        for condition in self.conditions:
            condition.require_denoiser(denoiser)

    def require_measured(self, timesteps: Sequence[int]) -> None:
        super().require_measured(timesteps)
        if isinstance(self.strength, Strength):
            measured = real_nll(self.predictor)
            for timestep in self.compared(timesteps):
                self.strength.require_measured(*measured.get(timestep, (None, {})))

    def compared(self, timesteps: Sequence[int]) -> list[int]:
        """Those timesteps of a run, noisiest first, at which samples are compared with real data."""
        return [timestep for timestep in timesteps if self.acts(timestep)]

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
            step = Step(0, timestep, None, math.nan, 1.0, UNKNOWN, (), space, SampleNoise(0, indices))
            score, _ = self.time_score(x, step)
        step.checks.settle()
        return score

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        moved, places = x, Counter[str]()
        for condition in self.conditions:
            places[kind := type(condition).__qualname__] += 1
            if condition.acts(step.timestep):
                moved = moved + condition.look_ahead(moved, step.within(f"{kind} {places[kind]}"), predict)
        evidence = self.evidence(moved, step)
        return x + omega(self.strength, evidence, step) * evidence.score

    def evidence(self, x: Tensor, step: Step, with_score: bool = True) -> Evidence:
        """The predictor's judgement of noisy samples ``x [B, ...]`` that should be at ``step.timestep``.

        Args:
            x: Noisy samples.
            step: The step they are at.
            with_score: False gives a score of zero: a forward pass alone, recorded under grad.
        """
        if with_score:
            score, log_posterior = self.time_score(x, step)
        else:
            score, log_posterior = torch.zeros_like(x), self.log_posterior(x, step)[:, step.timestep]
        if "real_nll" not in step.state:
            step.state["real_nll"] = real_nll(self.predictor)
        return Evidence(-log_posterior, score, *step.state["real_nll"].get(step.timestep, (None, {})))


def real_nll(predictor: nn.Module | None) -> dict[int, tuple[Tensor | None, dict[float, Tensor]]]:
    """Mean and quantiles of ``-log p(t | x_t)`` of real data by timestep, as far as they were measured.

    Waits for the device, so a run asks once.
    """
    mean: Any = getattr(predictor, "typical_nll", None)
    rows: Any = getattr(predictor, "nll_quantiles", None)
    measured = measured_timesteps(mean, rows)
    if not measured:
        return {}
    means = [value if known else None for value, known in zip(mean.unbind(), measured[0], strict=True)]
    if len(measured) < 2:
        return {t: (value, {}) for t, value in enumerate(means)}
    levels: Any = predictor.quantile_levels  # type: ignore[union-attr]
    columns = zip(rows.unbind(1), measured[1], strict=True)
    quantiles = [dict(zip(levels, column.unbind(), strict=True)) if known else {} for column, known in columns]
    return dict(enumerate(zip(means, quantiles, strict=True)))


def measured_timesteps(mean: Tensor | None, quantiles: Tensor | None) -> list[list[bool]]:
    """True at the timesteps at which real data were measured: by their mean ``[T]``, and by their quantiles ``[Q, T]``.

    As far as there are any; read from the device in one transfer.
    """
    known = [] if mean is None else [mean.isfinite()]
    known += [] if mean is None or quantiles is None else [quantiles.isfinite().all(0)]
    return torch.stack(known).tolist() if known else []


class TemporalAlignmentAfterStep(TemporalAlignment):
    """TAG applied to the result of each reverse step, at the timestep reached (Algorithm 2).

    The last step reaches the data, which has no timestep, and is left alone. Applying TAG before the denoiser repaired
    samples slightly better in our trials.

    Args:
        predictor: See ``TemporalAlignment``.
        strength: See ``TemporalAlignment``.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    needs_prediction = False

    def __init__(
        self, predictor: nn.Module | None = None, strength: float | Strength = PolyakStrength(), **interval: Any
    ) -> None:
        super().__init__(predictor, strength, **interval)

    def compared(self, timesteps: Sequence[int]) -> list[int]:
        return [reached for timestep, reached in itertools.pairwise(timesteps) if self.acts(timestep)]

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return x

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        if step.next_timestep is None:
            return proposal
        reached = step.reached()
        evidence = self.evidence(proposal.sample, reached)
        return proposal.moved(omega(self.strength, evidence, reached) * evidence.score)
