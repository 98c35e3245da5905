"""RED-Diff: a variational sampler for inverse problems."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Predict, Prediction, Proposal, Run, Step
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import (
    Condition,
    ConditionedGuidance,
    Conditions,
    JointCondition,
    half_squared_residual,
    residual_norm,
)
from tag_lightning.guidance.own_step import OwnStep

_BETAS = (0.9, 0.99)


class REDDiff(OwnStep, ConditionedGuidance):
    """Regularisation by the denoiser (RED-Diff; Mardani et al. 2023, arXiv 2305.04391, Algorithm 1).

    Adam moves an estimate ``mu`` of the clean sample, one update per step of the run, along the gradient of

        ``-log p(c | mu) + lambda_t (sg[epsilon_theta(x_t, t) - epsilon])^T mu``

    with ``x_t = sqrt(a) mu + sqrt(1 - a) epsilon``, ``a = alphas_cumprod[t]``, fresh noise in every step and ``sg`` the
    stop of the gradient: nothing runs backward through the denoiser. The weight is the inverse signal-to-noise ratio
    ``lambda_t = regularization * sqrt((1 - a) / a)``, so that the gradient of the second term is
    ``regularization * (mu - x0_hat(x_t))``. The last step returns ``mu``. The proposal of the solver is discarded, so
    the solver makes no difference.

    Readings:

    - A measured residual enters as ``|y - A mu|^2 / 2``, the paper's data term at ``sigma_v = 1``. As in the published
      code each term is averaged over its own elements: ``lambda_t`` is multiplied by the number of elements of ``y``
      over that of ``mu``, 1/16 for ``SuperResolution(4)`` and the share of known pixels for ``Inpainting``, so that one
      ``regularization`` serves all operators. Adam ignores the scale of the sum. Any other condition enters as its
      negative log-likelihood, without that factor.
    - ``mu`` starts at 0, for which the noise that the run starts from is ``x_t``. The published code (NVlabs/RED-diff)
      starts at the pseudo-inverse ``A^+ y``, which a condition does not know.
    - ``x0_hat`` is clipped to the range of the space. Near pure noise the plain estimate
      leaves the range by far, and Adam's second moment remembers that for the rest of a short run. In a space without a
      range the algorithm is as published.
    - Where a guidance earlier in the list moves ``x_t``, as TAG does, ``epsilon`` is the noise left in it beside
      ``sqrt(a) mu``.

    Args:
        condition: See ``ConditionedGuidance``.
        regularization: Weight lambda of the denoiser's term, at least 0.
        learning_rate: Length of Adam's first update in the unit of the samples, above 0.
        **interval: ``start`` and ``stop``, see ``Guidance``. At ``start`` the estimate begins at 0, whatever the solver
            made before; below ``stop`` the solver goes on from ``mu`` with the noise of that timestep.

    Raises:
        ValueError: If a number is out of range; when a sampler is made, see ``OwnStep``.
    """

    cost = "denoiser 1 / 0, guide 1 / 1"
    needs_grad = False

    def __init__(
        self,
        condition: Conditions = None,
        regularization: float = 0.25,
        learning_rate: float = 0.1,
        **interval: Any,
    ) -> None:
        super().__init__(_with_squares(condition), **interval)
        require_non_negative("regularization", regularization)
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a finite number above 0, got {learning_rate}")
        self.regularization, self.learning_rate = regularization, learning_rate

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(super().for_run(run))
        ready.condition = _with_squares(ready.condition)
        return ready

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        step.state["x0"] = step.space.clip(prediction.x0.detach())
        return prediction

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        mean = math.sqrt(step.next_alpha_bar) * self.updated(step.state["x0"], step)
        std = math.sqrt(1 - step.next_alpha_bar)
        return Proposal(mean, std, step.noise() if std > 0 else torch.zeros_like(mean))

    def updated(self, x0: Tensor, step: Step) -> Tensor:
        """``mu [B, ...]`` after one update towards the denoiser's ``x0 [B, ...]`` and the condition."""
        if "optimizer" not in step.state:
            mu = torch.zeros_like(x0).requires_grad_(True)
            step.state.update(mu=mu, optimizer=torch.optim.Adam([mu], self.learning_rate, _BETAS))
        mu = step.state["mu"]
        with torch.no_grad():
            weight = self.regularization * _measured_share(self.condition, mu)
            mu.grad = weight * (mu - x0) - self.gradient_at(mu, step)
            step.state["optimizer"].step()
            mu.copy_(step.space.project(mu))
            return mu.clone()


def _measured_share(condition: Conditions, mu: Tensor) -> float:
    """Elements of the measurement over those of a sample of ``mu [B, ...]``; 1 for a condition without a residual."""
    members = condition.conditions if isinstance(condition, JointCondition) else (condition,)
    measured = [c.num_measured for c in members if isinstance(c, Condition) and c.loss is half_squared_residual]
    return sum(measured) / mu[0].numel() if measured else 1.0


def _with_squares(condition: Conditions) -> Conditions:
    """The same condition, with half the squared residual in place of the residual's norm."""
    if isinstance(condition, JointCondition):
        return JointCondition([_with_square(each) for each in condition.conditions])
    return _with_square(condition) if isinstance(condition, Condition) else condition


def _with_square(condition: Condition) -> Condition:
    if condition.loss is not residual_norm:
        return condition
    return Condition(condition.predictor, condition.target, half_squared_residual, condition.num_measured)
