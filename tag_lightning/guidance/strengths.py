"""Rules for the strength of TAG: the length of its step along the time-linked score."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from tag_lightning.diffusion import NonFiniteError, Step
from tag_lightning.diffusion.arguments import Rebuildable


class Evidence(NamedTuple):
    """The time predictor's judgement of a batch of noisy samples.

    Attributes:
        nll: ``-log p(t | x)`` of the timestep the samples should be at, ``[B]``, in nats.
        score: Its negative gradient, the time-linked score, ``[B, ...]``.
        typical_nll: Mean ``nll`` of real, forward-noised data at this timestep; None if never measured.
        nll_quantiles: Quantiles of the same by their level; empty if never measured.
    """

    nll: Tensor
    score: Tensor
    typical_nll: Tensor | None
    nll_quantiles: Mapping[float, Tensor] = {}


StrengthRule: TypeAlias = Callable[[Evidence, Step], Tensor | float]
"""Returns ``omega`` for the evidence of a step: a number, or one per sample ``[B]``."""


class Strength(Rebuildable, ABC):
    """A rule for the factor ``omega`` in ``x + omega * score``. Any callable of the same form will do."""

    @abstractmethod
    def __call__(self, evidence: Evidence, step: Step) -> Tensor | float:
        """``omega``, at least 0: one number, or one per sample ``[B]``."""

    def require_measured(self, typical_nll: Tensor | None, nll_quantiles: Mapping[float, Tensor]) -> None:
        """Check what this rule compares with at one timestep, see ``Evidence``, before any sample is drawn.

        Raises:
            ValueError: If it was not measured; names it and the way out.
        """
        return


class ConstantStrength(Strength):
    """The same ``omega`` at every timestep.

    Args:
        omega: At least 0.

    Raises:
        ValueError: If negative or not finite.
    """

    def __init__(self, omega: float) -> None:
        self.omega = require_strength("omega", omega)

    def __call__(self, evidence: Evidence, step: Step) -> float:
        return self.omega


class NoiseProportionalStrength(Strength):
    """``omega_0 (1 - alphas_cumprod[t])``, the paper's schedule (arXiv 2510.11057).

    Args:
        omega_0: Strength where nothing but noise is left, at least 0. Above about 2 it over-corrects.

    Raises:
        ValueError: If negative or not finite.
    """

    def __init__(self, omega_0: float) -> None:
        self.omega_0 = require_strength("omega_0", omega_0)

    def __call__(self, evidence: Evidence, step: Step) -> float:
        return self.omega_0 * (1 - step.alpha_bar)


class PolyakStrength(Strength):
    """Polyak's step for minimising a function whose minimum is known; nothing to tune.

    ``omega = max(0, nll - typical_nll[t]) / |score|^2``: a sample that looks like its timestep is left
    alone, one that does not is moved as far as a linear model says it takes. The move is at most ``cap``
    times the length of the noise in the sample, ``sqrt(d (1 - alphas_cumprod[t]))``.

    Args:
        cap: Longest move as a fraction of the noise, at least 0; or several by training timestep, of which the nearest
            counts, as ``python -m benchmarks.move_lengths`` learns them from validation images.
        quantile: Compare with this quantile of the likelihood of real data rather than with its mean, above which half
            of all good samples lie: one of the predictor's ``quantile_levels``. Predictors that were saved without
            quantiles compare with the mean.

    Raises:
        ValueError: If ``cap`` is negative or empty, ``quantile`` outside (0, 1) or not measured, or the predictor has
            no ``typical_nll``.
    """

    def __init__(self, cap: float | dict[int, float] = 0.3, quantile: float | None = None) -> None:
        caps = cap if isinstance(cap, dict) else {0: cap}
        if not caps:
            raise ValueError("cap is empty; give a number, or at least one by timestep such as {99: 0.3}")
        known = sorted((int(timestep), require_strength("cap", value)) for timestep, value in caps.items())
        self.caps = [value for _, value in known]
        # Timesteps at which the nearest changes.
        self.borders = [(before + after) / 2 for (before, _), (after, _) in pairwise(known)]
        if quantile is not None and not 0 < quantile < 1:
            raise ValueError(f"quantile must lie in (0, 1), got {quantile}")
        self.quantile = quantile

    def __call__(self, evidence: Evidence, step: Step) -> Tensor:
        tolerated = self._tolerated(evidence.typical_nll, evidence.nll_quantiles)
        excess = (evidence.nll - tolerated).clamp(min=0)
        # A saturated predictor has a gradient of zero, or one lost in rounding, which says nothing of a direction.
        length = evidence.score.flatten(1).norm(dim=1).clamp(min=torch.finfo(evidence.score.dtype).eps)
        cap = self.caps[bisect(self.borders, step.timestep)]
        longest = cap * (step.space.degrees_of_freedom * (1 - step.alpha_bar)).sqrt()
        return torch.minimum(excess / length, longest) / length

    def require_measured(self, typical_nll: Tensor | None, nll_quantiles: Mapping[float, Tensor]) -> None:
        self._tolerated(typical_nll, nll_quantiles)

    def _tolerated(self, typical_nll: Tensor | None, nll_quantiles: Mapping[float, Tensor]) -> Tensor:
        if typical_nll is None:
            raise ValueError(
                "PolyakStrength needs a time predictor with a measured typical_nll: validate it once "
                "during fit (TimePredictorModule measures it), whose checkpoint then has it, or choose another strength"
            )
        if self.quantile is None or not nll_quantiles:
            return typical_nll
        if self.quantile not in nll_quantiles:
            known = ", ".join(map(str, nll_quantiles))
            raise ValueError(f"quantile {self.quantile} was not measured; choose one of {known}")
        return nll_quantiles[self.quantile]


def require_strength(name: str, value: float) -> float:
    """``value``, if it can be the strength of TAG.

    Raises:
        ValueError: If negative or not finite; names it ``name``.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}; TAG never moves backwards")
    return value


def as_rule(strength: float | StrengthRule) -> StrengthRule:
    """A constant number as a rule; rules stay as they are.

    Raises:
        ValueError: If the number is negative or not finite.
    """
    return strength if callable(strength) else ConstantStrength(require_strength("strength", strength))


def omega(rule: StrengthRule, evidence: Evidence, step: Step) -> Tensor | float:
    """The answer of any rule, checked and shaped to multiply ``evidence.score``.

    Raises:
        ValueError: If it is not a number, negative, or of another shape; names the rule and the timestep. Negative
            entries of a tensor are reported with the step's other checks.
        NonFiniteError: If it is NaN or infinite, reported likewise.
    """
    where = f"the strength {getattr(rule, '__name__', type(rule).__name__)} returned {{}} at timestep {step.timestep}"
    answer, count = rule(evidence, step), len(evidence.nll)
    if not isinstance(answer, Tensor):
        try:
            number = float(answer)
        except (TypeError, ValueError) as error:
            kind = type(answer).__name__
            raise ValueError(f"{where.format(kind)}; return a number, or a tensor [{count}]") from error
        if not 0 <= number < math.inf:
            raise _refused(where, number)
        return number
    if answer.shape not in ((), (count,)):
        shape = f"a tensor {list(answer.shape)}"
        raise ValueError(f"{where.format(shape)}; return one number, or one per sample [{count}]")
    values = answer.to(evidence.nll).expand(count)
    # Samples that are NaN already are exempt.
    good = ((values >= 0) & values.isfinite()) | ~evidence.nll.isfinite()
    step.checks.require(good, lambda: _refused(where, values[~good][0].item()))
    return values.reshape(-1, *(1,) * (evidence.score.ndim - 1))


def _refused(where: str, value: float) -> Exception:
    kind = ValueError if math.isfinite(value) else NonFiniteError
    return kind(f"{where.format(value)}; return finite numbers of at least 0: TAG never moves backwards")
