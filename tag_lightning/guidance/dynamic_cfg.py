"""Dynamic classifier-free guidance (Papalampidi et al. 2025): the scale of each sample and step by online feedback."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Denoiser, Prediction, Run, Step, on_device
from tag_lightning.guidance.classifier_free import ConditionContrast, extrapolated
from tag_lightning.guidance.evaluators import ConditionEvaluator, Evaluator


class DynamicCFG(ConditionContrast):
    """Dynamic classifier-free guidance by online feedback (Papalampidi et al. 2025, arXiv 2509.16131).

    Each step makes one candidate per scale from the two predictions of ``CFG``, has evaluators score
    them, and goes on with the best one, greedily, for every sample by itself. A tie goes to the earlier scale.

    The scores of an evaluator are put on a common scale first: over the candidates of one sample and step their lowest
    becomes 0 and their highest 1, or all of them 0 where they are equal. The choice is the candidate of the largest
    weighted sum. The paper trains evaluators on noisy latents and adapts their weights to the timestep. Here the
    evaluators read the clipped ``x0`` (the time predictor reads the next sample), the weights are constant, and the
    normalisation is our reading.

    Args:
        scales: The guidance scales to choose from, at least 0 each; see ``CFG``.
        evaluators: ``ConditionEvaluator``, ``DiscriminatorEvaluator``, ``TimeEvaluator``, or your own; None is the
            first, by the conditions of the run.
        weights: One per evaluator, at least 0 and not all 0; None weighs them equally.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``scales`` or ``evaluators`` is empty, an evaluator gives no scores, or a number is out of range;
            when the sampler is made, if an evaluator lacks its network.
    """

    cost = "denoiser 2 / 0, guide S / 0 for S scales"

    def __init__(
        self,
        scales: Sequence[float] = (1.0, 1.5, 2.0, 4.0),
        evaluators: Sequence[Evaluator] | None = None,
        weights: Sequence[float] | None = None,
        **interval: Any,
    ) -> None:
        if not scales or not all(0 <= scale < math.inf for scale in scales):
            raise ValueError(f"scales must be finite numbers of at least 0, one or more, got {list(scales)}")
        super().__init__(max(scales), **interval)
        self.scales = tuple(scales)
        self.evaluators = (ConditionEvaluator(),) if evaluators is None else tuple(evaluators)
        self.weights = (1.0,) * len(self.evaluators) if weights is None else tuple(weights)
        if not self.evaluators:
            raise ValueError("DynamicCFG needs an evaluator, but the list is empty; leave it out for the guide")
        for name in (type(one).__name__ for one in self.evaluators if not isinstance(one, Evaluator)):
            raise ValueError(f"{name} gives no scores; an evaluator is an Evaluator, such as ConditionEvaluator")
        if len(self.weights) != len(self.evaluators):
            raise ValueError(
                f"there are {len(self.evaluators)} evaluators, but {len(self.weights)} weights; give one for each"
            )
        if not all(0 <= weight < math.inf for weight in self.weights) or not any(self.weights):
            raise ValueError(f"weights must be finite, at least 0 and not all 0, got {list(self.weights)}")

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.evaluators = tuple(evaluator.for_run(run) for evaluator in self.evaluators)
        return ready

    def require_denoiser(self, denoiser: Denoiser) -> None:
        for evaluator in self.evaluators:
            evaluator.require_ready()

    def mixed(self, conditional: Prediction, unconditional: Prediction, step: Step) -> Prediction:
        scales = on_device(torch.tensor(self.scales, dtype=conditional.x0.dtype), conditional.x0.device)
        return extrapolated(conditional, unconditional, scales[self.chosen(conditional, unconditional, step)], step)

    @torch.no_grad()
    def chosen(self, conditional: Prediction, unconditional: Prediction, step: Step) -> Tensor:
        """The place in ``scales`` of each sample's choice, ``[B]``."""
        candidates = []
        for scale in self.scales:
            candidate = extrapolated(conditional, unconditional, scale, step)
            candidates.append(candidate.with_x0(step.space.clip(candidate.x0), step))
        total = torch.zeros(
            len(candidates), len(conditional.x0), device=conditional.x0.device, dtype=conditional.x0.dtype
        )
        for weight, evaluator in zip(self.weights, self.evaluators, strict=True):
            scores = [evaluator.scores(candidate, step) for candidate in candidates]
            step.checks.require_finite(step.timestep, the_evaluator=torch.stack(scores, 1))
            total += weight * normalised(torch.stack(scores)).to(total)
        return total.argmax(0)


def normalised(scores: Tensor) -> Tensor:
    """``scores [S, B]`` of S candidates, from 0 for the lowest of each sample to 1 for its highest; 0 if all equal."""
    lowest, highest = scores.amin(0), scores.amax(0)
    return (scores - lowest) / (highest - lowest).where(highest > lowest, 1)
