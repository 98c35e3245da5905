"""EluCD (Ma et al. 2024): guidance by a calibrated classifier of clean samples, without the denoiser's gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from tag_lightning.diffusion import Prediction, Proposal, Run, Step
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import Condition, ConditionedGuidance, Conditions, cross_entropy


class TemperedCrossEntropy:
    """``log sum_k exp(tau_2 f_k) - tau_1 f_c`` for logits f: cross-entropy with a temperature of its own for each part.

    Args:
        joint: tau_1, above 0.
        marginal: tau_2, at least 0; 0 follows the gradient of the joint ``log p(x, c)`` alone.
    """

    def __init__(self, joint: float, marginal: float) -> None:
        self.joint, self.marginal = joint, marginal

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """``[B]`` for logits ``output [B, K]`` and classes ``target [B]``."""
        chosen = output.gather(1, target[:, None])[:, 0]
        return (self.marginal * output).logsumexp(1) - self.joint * chosen


class EluCD(ConditionedGuidance):
    """Calibrated guidance by an off-the-shelf classifier (Ma et al. 2024, arXiv 2310.11311), in the published form.

    ``mean <- mean + (v_t + bump v_max sin(pi i / S)) scale grad_{x0} (tau_1 f_c(x0) - logsumexp(tau_2 f(x0)))`` at the
    clipped ``x0_hat``, with the posterior variance ``v_t = (1 - a') / (1 - a) (1 - a / a')`` of a step, its largest
    value ``v_max`` so far, and ``i = S - 1 .. 0`` counting the S steps down. ``v_t`` is that of ancestral sampling,
    whatever noise the solver adds. Nothing runs backward through the denoiser.

    Args:
        condition: A condition on a class, by cross-entropy; see ``ConditionedGuidance``.
        scale: Guidance scale, at least 0.
        joint_temperature: tau_1, above 0.
        margin_discount: ``tau_2 / tau_1``, at least 0. 1 follows the conditional log-probability, 0 the joint one.
        bump: Weight of the sine schedule, at least 0; 0.3 is published.
        softplus_beta: Replaces every ReLU of the classifier by ``Softplus(beta)``, whose gradient is smooth; None
            leaves the classifier as it is.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If a setting is out of range; and for a run whose condition is not on a class.
    """

    cost = "denoiser 1 / 0, guide 1 / 1"
    needs_grad = False

    def __init__(
        self,
        condition: Conditions = None,
        scale: float = 1.0,
        joint_temperature: float = 1.0,
        margin_discount: float = 0.5,
        bump: float = 0.3,
        softplus_beta: float | None = None,
        **interval: Any,
    ) -> None:
        super().__init__(condition, **interval)
        least = {"scale": scale, "margin_discount": margin_discount, "bump": bump}
        for name, value in least.items():
            require_non_negative(name, value)
        for name, above in {"joint_temperature": joint_temperature, "softplus_beta": softplus_beta}.items():
            if above is not None and not 0 < above < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {above}")
        self.scale, self.bump, self.softplus_beta = scale, bump, softplus_beta
        self.loss = TemperedCrossEntropy(joint_temperature, joint_temperature * margin_discount)
        if isinstance(condition, Condition):
            self.condition = self._calibrated(condition)

    def for_run(self, run: Run) -> Self:
        if isinstance(self.condition, Condition):
            return self
        ready = super().for_run(run)
        ready.condition = self._calibrated(ready.condition)
        return ready

    def _calibrated(self, condition: Conditions) -> Condition:
        if not isinstance(condition, Condition) or condition.loss is not cross_entropy:
            raise ValueError("EluCD follows one condition on a class; name it by condition, or use DPS")
        predictor = condition.predictor
        if self.softplus_beta is not None:
            predictor = _softened(predictor, self.softplus_beta)
        return Condition(predictor, condition.target, self.loss)

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        return proposal.moved(self.mean_move(proposal, x, prediction, step))

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.displacement(x, prediction, step)

    def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.weight(step) * self.scale * self.mean_gradient(prediction, step)

    def mean_gradient(self, prediction: Prediction, step: Step) -> Tensor:
        """The gradient of the tempered likelihood at the clipped ``x0``, ``[B, ...]``, projected onto the space."""
        return self.gradient_at(step.space.clip(prediction.x0), step)

    def weight(self, step: Step) -> float:
        """``v_t + bump v_max sin(pi i / S)``."""
        variances = [(1 - after) / (1 - here) * (1 - here / after) for here, after in step.levels[: step.index + 1]]
        left = (len(step.levels) - 1 - step.index) / len(step.levels)
        return variances[-1] + self.bump * max(variances) * max(0.0, math.sin(math.pi * left))


def _softened(network: nn.Module, beta: float) -> nn.Module:
    softened = copy.deepcopy(network)
    replaced: Mapping[str, nn.Module] = {n: m for n, m in softened.named_modules() if isinstance(m, nn.ReLU)}
    if not replaced:
        raise ValueError(f"softplus_beta replaces every ReLU, but {type(network).__name__} has none; leave it out")
    for name in replaced:
        softened.set_submodule(name, nn.Softplus(beta))
    return softened
