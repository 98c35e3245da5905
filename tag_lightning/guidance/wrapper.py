"""The base of guidance that changes what another guidance does."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Denoiser, Guidance, Predict, Prediction, Proposal, Run, Step
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.own_step import OwnStep
from tag_lightning.guidance.prediction_guidance import PredictionGuidance


class GuidanceWrapper(ConditionedGuidance):
    """A guidance that changes what another one does; hooks it does not override are those of the other.

    Args:
        guidance: The guidance to wrap.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If ``guidance`` does not move samples towards a condition.
    """

    cost = "as the wrapped method"

    def __init__(self, guidance: ConditionedGuidance, **interval: Any) -> None:
        super().__init__(**interval)
        if not isinstance(guidance, ConditionedGuidance):
            raise ValueError(
                f"{type(self).__name__} cannot wrap {type(guidance).__name__}, which follows no condition; wrap a "
                "method such as DPS, TFG or MPGD"
            )
        innermost = guidance.innermost
        if type(innermost).denoise is not Guidance.denoise and not isinstance(innermost, PredictionGuidance):
            own = isinstance(innermost, OwnStep)
            does = "takes a step of its own" if own else "changes the prediction, but is no PredictionGuidance"
            raise ValueError(
                f"{type(self).__name__} cannot wrap {type(innermost).__name__}, which {does}; wrap a method such as "
                "DPS, TFG or MPGD"
            )
        self.guidance = guidance
        self.needs_grad = guidance.needs_grad
        self.needs_noise = guidance.needs_noise
        self.keeps_graph = guidance.keeps_graph
        self.recurrence = guidance.recurrence

    @property
    def innermost(self) -> Guidance:
        return self.guidance.innermost

    @property
    def changes_prediction(self) -> bool:
        return self.guidance.changes_prediction

    @property
    def moves_proposal(self) -> bool:
        return self.guidance.moves_proposal

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.guidance = self.guidance.for_run(run)
        return ready

    def require_denoiser(self, denoiser: Denoiser) -> None:
        self.guidance.require_denoiser(denoiser)

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        self.guidance.require_company(before, after)

    def acts(self, timestep: int) -> bool:
        return super().acts(timestep) and self.guidance.acts(timestep)

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return self.guidance.correct(x, step, predict)

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        return self.guidance.denoise(x, step, predict)

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        return self.guidance.propose(proposal, x, prediction, step)

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.guidance.mean_move(proposal, x, prediction, step)

    def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.guidance.gradient(x, prediction, step)

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.displaced(self.guidance.displacement(x, prediction, step), step)

    def look_ahead(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return self.displaced(self.guidance.look_ahead(x, step, predict), step)

    def displaced(self, move: Tensor, step: Step) -> Tensor:
        """The move of noisy samples to make in place of the wrapped guidance's ``displacement``, ``[B, ...]``."""
        return move


class MoveWrapper(GuidanceWrapper):
    """Base of wrappers that change the move of the proposal's mean.

    A method that guides the prediction (``PredictionGuidance``) no longer does so: the solver sees the denoiser's own
    prediction, and the proposal makes the move that the guided one would have led to. The step that ends at the data is
    not guided at all.

    Args:
        guidance: A guidance that moves the proposal, such as DPS, TFG or MPGD, or that guides the prediction.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Raises:
        ValueError: If ``guidance`` turns the noise of the step and leaves its mean, or has no ``mean_move``.
    """

    changes_prediction = False
    moves_proposal = True
    denoise = Guidance.denoise

    def __init__(self, guidance: ConditionedGuidance, **interval: Any) -> None:
        super().__init__(guidance, **interval)
        self.keeps_graph = True
        if self.needs_noise:
            raise ValueError(
                f"{type(self).__name__} cannot change the move of {type(self.innermost).__name__}, which turns the "
                "noise of the step and leaves its mean; use it alone, or wrap a method such as DPS, TFG or MPGD"
            )
        if getattr(type(self.innermost), "mean_move", None) is ConditionedGuidance.mean_move:
            raise ValueError(
                f"{type(self).__name__} cannot change the move of {type(self.innermost).__name__}, which has no "
                "mean_move; give it one, or wrap a method such as DPS, TFG or MPGD"
            )

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        if not self.guidance.changes_prediction:  # what it asks of other predictions ends with its own
            super().require_company(before, after)

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        return proposal.moved(self.mean_move(proposal, x, prediction, step))

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        if step.next_timestep is None:
            return torch.zeros_like(proposal.mean)
        return self.changed(self.guidance.mean_move(proposal, x, prediction, step), proposal, step)

    @abstractmethod
    def changed(self, move: Tensor, proposal: Proposal, step: Step) -> Tensor:
        """The move to make in place of ``move [B, ...]``.

        Args:
            move: The move of the wrapped guidance.
            proposal: The next samples without it.
            step: The step taken, which does not end at the data.
        """
