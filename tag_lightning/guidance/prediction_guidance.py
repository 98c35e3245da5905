"""The base of guidance by a shift of the prediction rather than of the proposal."""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor

from tag_lightning.diffusion import Prediction, Proposal, Step, per_sample
from tag_lightning.guidance.conditions import ConditionedGuidance


class PredictionGuidance(ConditionedGuidance):
    """Guidance that shifts ``x0`` of the prediction, and ``epsilon`` so that both still make up the noisy sample."""

    @abstractmethod
    def clean_move(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """The shift of ``x0``, ``[B, ...]``.

        Args:
            x: Noisy samples ``[B, ...]``, which require grad if the method has ``needs_grad``.
            prediction: The prediction for ``x``, with its graph if the method has ``needs_grad``.
            step: The step they are at.
        """

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """As ``ConditionedGuidance.mean_move``: where the shift leads a solver of first order."""
        a = prediction.level(step)
        rest = math.sqrt(max(0.0, 1 - step.next_alpha_bar - proposal.std**2))
        factor = math.sqrt(step.next_alpha_bar) - rest * (a / (1 - a)) ** 0.5
        return per_sample(factor, x) * self.clean_move(x, prediction, step)

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """The move of ``x [B, ...]`` itself that changes ``x0`` as ``denoise`` does, at the same ``epsilon``."""
        return per_sample(prediction.signal(step), x) * self.clean_move(x, prediction, step)
