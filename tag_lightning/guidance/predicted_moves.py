"""Guidance that the time predictor keeps on the manifold: moves shortened or turned before they are made."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Proposal, Run, Step, per_sample
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.strengths import Evidence
from tag_lightning.guidance.tag import TemporalAlignment, real_nll
from tag_lightning.guidance.wrapper import MoveWrapper


class PredictedMoves(MoveWrapper):
    """Base of wrappers that change the move of the proposal by what the time predictor says of its end.

    Args:
        guidance: See ``MoveWrapper``.
        predictor: Time predictor; None takes that of the run.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If ``guidance`` does not move the proposal's mean.
    """

    def __init__(self, guidance: ConditionedGuidance, predictor: nn.Module | None = None, **interval: Any) -> None:
        super().__init__(guidance, **interval)
        self.alignment = TemporalAlignment(predictor)
        self.alignment.owner = type(self).__name__

    def for_run(self, run: Run) -> Self:
        """As ``GuidanceWrapper.for_run``.

        Raises:
            ValueError: If neither this guidance nor the run has a time predictor.
        """
        ready = copy.copy(super().for_run(run))
        ready.alignment = self.alignment.for_run(run)
        return ready

    def require_measured(self, timesteps: Sequence[int]) -> None:
        self.guidance.require_measured(timesteps)
        measured = real_nll(self.alignment.predictor)
        for timestep, reached in itertools.pairwise(timesteps):
            if self.acts(timestep):
                self._require_typical(measured.get(reached, (None, {}))[0])

    def typical(self, evidence: Evidence) -> Tensor:
        """The mean negative log-likelihood of real data at this timestep.

        Raises:
            ValueError: If the predictor never measured it.
        """
        return self._require_typical(evidence.typical_nll)

    def _require_typical(self, typical_nll: Tensor | None) -> Tensor:
        if typical_nll is None:
            raise ValueError(
                f"{type(self).__name__} needs a time predictor with a measured typical_nll: validate it once "
                "(TimePredictorModule measures it)"
            )
        return typical_nll


class ProximalAlignment(PredictedMoves):
    """Shortens the move of each sample until the time predictor still takes the result for its timestep.

    The longest of ``move``, ``move / 2``, ``move / 4`` ... is taken after which ``-log p(t' | x)`` is at most that of
    real data, or at most what it is without the move; none if all exceed it. So the scale of the wrapped method becomes
    an upper bound. Costs ``halvings + 2`` forward passes of the predictor per step.

    Args:
        guidance: See ``PredictedMoves``.
        predictor: See ``PredictedMoves``.
        halvings: Number of times a move may be halved, at least 0.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If ``halvings`` is negative.
    """

    cost = "denoiser as the wrapped method, predictor k + 2 / 0 for k halvings"

    def __init__(
        self,
        guidance: ConditionedGuidance,
        predictor: nn.Module | None = None,
        halvings: int = 4,
        **interval: Any,
    ) -> None:
        super().__init__(guidance, predictor, **interval)
        if halvings < 0:
            raise ValueError(f"halvings must be at least 0, got {halvings}")
        self.halvings = halvings

    def changed(self, move: Tensor, proposal: Proposal, step: Step) -> Tensor:
        x, step = proposal.sample, step.reached()
        still = self.alignment.evidence(x, step, with_score=False)
        tolerated = torch.maximum(self.typical(still).to(still.nll), still.nll)
        factor = torch.zeros_like(still.nll)
        for k in range(self.halvings, -1, -1):  # the longest that is tolerated comes last
            nll = self.alignment.evidence(x + move / 2**k, step, with_score=False).nll
            factor = torch.where(nll <= tolerated, 0.5**k, factor)
        return move * per_sample(factor, move)


class AlignedMoves(PredictedMoves):
    """Takes out of a move what would make the sample less typical of the timestep that it reaches.

    With the time-linked score ``g = grad log p(t' | x)`` at the unguided end of the step, a move ``m`` lowers the
    log-likelihood by ``-m . g``, to first order. It may lower it as far as the sample is above that of real data: the
    move is projected onto the half-space ``m . g >= -slack`` with ``slack = max(0, typical_nll[t'] - nll)``. Costs one
    forward and one backward pass of the predictor per step.

    Args:
        guidance: See ``PredictedMoves``.
        predictor: See ``PredictedMoves``.
        **interval: ``start`` and ``stop``, within those of ``guidance``.
    """

    cost = "denoiser as the wrapped method, predictor 1 / 1"

    def changed(self, move: Tensor, proposal: Proposal, step: Step) -> Tensor:
        evidence = self.alignment.evidence(proposal.sample, step.reached())
        slack = (self.typical(evidence) - evidence.nll).clamp(min=0)
        direction = evidence.score.flatten(1)
        square = direction.square().sum(1).clamp(min=torch.finfo(move.dtype).tiny)
        lacking = (-slack - (move.flatten(1) * direction).sum(1)).clamp(min=0) / square
        return move + per_sample(lacking, move) * evidence.score
