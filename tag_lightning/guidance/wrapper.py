"""The base of guidance that changes what another guidance does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from tag_lightning.diffusion import Denoiser, Guidance, Predict, Prediction, Proposal, Run, Step
from tag_lightning.guidance.conditions import ConditionedGuidance
from tag_lightning.guidance.own_step import OwnStep


class GuidanceWrapper(ConditionedGuidance):
    """A guidance that changes what another one does; hooks it does not override are those of the other.

    Args:
        guidance: The guidance to wrap.
        **interval: ``start`` and ``stop``, within those of ``guidance``.

    Attributes:
        wraps_predictions: It also takes methods whose gradient changes the prediction rather than the proposal.

    Raises:
        ValueError: If ``guidance`` does not move the solver's proposal towards a condition.
    """

    cost = "as the wrapped method"
    wraps_predictions: bool = False

    def __init__(self, guidance: ConditionedGuidance, **interval: Any) -> None:
        super().__init__(**interval)
        if not isinstance(guidance, ConditionedGuidance):
            raise ValueError(
                f"{type(self).__name__} cannot wrap {type(guidance).__name__}, which follows no condition; wrap a "
                "method such as DPS, TFG or MPGD"
            )
        innermost = guidance.innermost
        adaptable = self.wraps_predictions and getattr(innermost, "guides_prediction", False)
        if type(innermost).denoise is not Guidance.denoise and not adaptable:
            own = isinstance(innermost, OwnStep)
            does = "takes a step of its own" if own else "changes the prediction rather than the proposal"
            raise ValueError(
                f"{type(self).__name__} cannot wrap {type(innermost).__name__}, which {does}; wrap a method such as "
                "DPS, TFG or MPGD"
            )
        self.guidance = guidance
        self.needs_grad = guidance.needs_grad
        self.needs_noise = guidance.needs_noise
        self.keeps_graph = guidance.keeps_graph
        self.recurrence = guidance.recurrence

    def require_moved_mean(self) -> None:
        """Check that the wrapped guidance has a move of the proposal's mean to change.

        Raises:
            ValueError: If it turns the noise of the step instead.
        """
        if self.needs_noise:
            raise ValueError(
                f"{type(self).__name__} cannot change the move of {type(self.innermost).__name__}, which turns the "
                "noise of the step and leaves its mean; use it alone, or wrap a method such as DPS, TFG or MPGD"
            )

    @property
    def innermost(self) -> Guidance:
        return self.guidance.innermost

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

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        return self.guidance.propose(proposal, x, prediction, step)

    def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.guidance.gradient(x, prediction, step)

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.guidance.displacement(x, prediction, step)
