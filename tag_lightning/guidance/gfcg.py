"""GFCG (Shenoy et al. 2024): guidance away from the class that a sample is mistaken for, without a gradient."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor

from tag_lightning.diffusion import Denoiser, Predict, Prediction, Run, Step
from tag_lightning.guidance.classifier_free import ConditionContrast, extrapolated
from tag_lightning.guidance.conditions import Condition, Conditions, condition_for_run, cross_entropy


class GFCG(ConditionContrast):
    """Gradient-free classifier guidance, GFCG (Shenoy et al. 2024, arXiv 2411.15393).

    A classifier looks at the clipped ``x0(x, c)`` of each step, in inference alone. The likeliest class r other than
    the one asked for takes the place of the null condition in classifier-free guidance, and the scale s grows with the
    doubt about c:

    ``epsilon^ = epsilon(x, r) + s (epsilon(x, c) - epsilon(x, r))``, ``s = 1 + (w - 1) (1 - p(c | x0))``.

    A classifier certain of c thus leaves plain conditional sampling, and one certain of another class has the full
    scale w. The paper determines both the reference class and the scale by the classifier at each step; this map from
    its probability to the scale is our reading, linear and without further constants. Unlike its relatives it needs no
    null condition. It composes with ``AutoGuidance``, as in the paper.

    Args:
        condition: A condition on the class that the denoiser is told, by cross-entropy: the classifier. See
            ``ConditionedGuidance``.
        guidance_scale: w, at least 0; 1 samples with the condition alone.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` is negative or not finite; for a run whose condition is not on a class; with a
            denoiser that is told no class, or another number of them than the classifier tells apart, when the sampler
            is made.
    """

    cost = "denoiser 2 / 0, guide 1 / 0"
    needs_null_condition = False

    def __init__(self, condition: Conditions = None, guidance_scale: float = 2.0, **interval: Any) -> None:
        super().__init__(guidance_scale, **interval)
        self.condition = condition

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.condition = condition_for_run(self.condition, run, type(self).__name__)
        ready.require_classifier()
        return ready

    def require_classifier(self) -> Condition:
        """The condition whose predictor classifies.

        Raises:
            ValueError: If it is open, or not on one class.
        """
        if isinstance(self.condition, Condition) and self.condition.loss is cross_entropy:
            return self.condition
        raise ValueError(f"{type(self).__name__} asks a classifier; name the condition on a class by condition")

    def require_denoiser(self, denoiser: Denoiser) -> None:
        own, conditioning = type(self).__name__, denoiser.conditioning
        assert conditioning is not None  # by needs_condition
        if conditioning.num_classes is None:
            raise ValueError(
                f"{own} moves away from a class, but this denoiser is told the quantity {conditioning.attribute!r}; "
                "take one that is told a class, or CFG"
            )
        classifier = self.require_classifier().predictor
        known = getattr(classifier, "num_classes", None)
        if known is None:
            raise ValueError(
                f"{own} compares the classes of its classifier with those of the denoiser, but "
                f"{type(classifier).__name__} has no num_classes; give it that attribute"
            )
        if known != conditioning.num_classes:
            raise ValueError(
                f"the classifier of {own} tells {known} classes apart, but the denoiser is told one of "
                f"{conditioning.num_classes}; give it a classifier of the same classes"
            )

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        conditional = predict(x, step.timestep)
        for argument, asked in step.space.denoiser_inputs.items():  # one, or none for a prediction without it
            scale, mistaken = self.reading(conditional, asked, step)
            return extrapolated(conditional, predict(x, step.timestep, **{argument: mistaken}), scale, step)
        return conditional

    @torch.no_grad()
    def reading(self, conditional: Prediction, asked: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Scale ``s [B]`` and reference class ``r [B]`` by the classifier, for the classes ``asked [B]``."""
        classifier = self.require_classifier().predictor
        logits = classifier(step.space.decode(step.space.clip(conditional.x0)), **step.space.inputs)
        step.checks.require_finite(step.timestep, the_classifier=logits)
        own = asked.to(logits.device)[:, None]
        others = logits.log_softmax(1).scatter(1, own, -torch.inf)
        doubt = others.logsumexp(1).exp()  # of all other classes: exact where p(c | x0) rounds to 1
        return 1 + (self.guidance_scale - 1) * doubt, others.argmax(1)
