"""Universal guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step, per_sample
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import Conditions
from tag_lightning.guidance.prediction_guidance import PredictionGuidance
from tag_lightning.guidance.tfg import TFG


class UGD(PredictionGuidance, TFG):
    """Universal guidance (Bansal et al. 2024, arXiv 2302.07121): forward and backward guidance in epsilon.

    ``epsilon^ = epsilon - scale sqrt(1 - a) grad_{x_t} L(x0_hat) - sqrt(a / (1 - a)) Delta_0`` and ``x0^`` along with
    it, in place of a move of the proposal.

    Args:
        condition: See ``ConditionedGuidance``.
        scale: Strength of forward guidance, at least 0.
        mu: Step length of backward guidance, at least 0.
        num_iterations: Moves of backward guidance per step.
        recurrence: Number of times each step is taken.
        clip: See ``TFG``.
        guide_clipped: See ``TFG``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: See ``TFG``.
    """

    cost = "denoiser r / r, guide r (1 + n) / r (1 + n)"
    keeps_graph = False
    propose = Guidance.propose  # the move is in the prediction already

    def __init__(
        self,
        condition: Conditions = None,
        scale: float = 1.0,
        mu: float = 0.0,
        num_iterations: int = 1,
        recurrence: int = 2,
        clip: float | None = None,
        guide_clipped: bool = False,
        **interval: Any,
    ) -> None:
        require_non_negative("scale", scale)
        super().__init__(
            condition,
            scale,
            mu,
            num_iterations=num_iterations,
            rho_schedule="constant",
            mu_schedule="constant",
            clip=clip,
            guide_clipped=guide_clipped,
            recurrence=recurrence,
            **interval,
        )

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        blind = [type(other).__name__ for other in before if not other.keeps_graph]
        if blind and self.rho > 0:
            raise ValueError(
                f"{type(self).__name__} cannot differentiate through {blind[0]}, which predicts without a graph; keep "
                "one of them, or set the scale of the later to 0"
            )

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(self.needs_grad)
            prediction = predict(x, step.timestep)
        move, prediction = self.clean_move(x, prediction, step), prediction.detach()
        return prediction.with_x0(prediction.x0 + move, step)

    def clean_move(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        a = prediction.level(step)
        return self.weighted(x, prediction, step, per_sample((1 - a) / a**0.5, x), 1.0)
