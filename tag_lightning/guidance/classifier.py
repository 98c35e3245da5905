"""Guidance by a predictor that was trained on noisy samples."""

from __future__ import annotations

import inspect
from typing import Any, Self

from torch import Tensor, nn

from tag_lightning.diffusion import Denoiser, Predict, Prediction, Run, Step, on_device, per_sample
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.conditions import Condition, Conditions, JointCondition
from tag_lightning.guidance.prediction_guidance import PredictionGuidance


class ClassifierGuidance(PredictionGuidance):
    """Classifier guidance (Dhariwal and Nichol 2021, arXiv 2105.05233, Algorithm 2).

    ``epsilon^ = epsilon - scale sqrt(1 - a) grad_{x_t} log p(c | x_t, t)``, and ``x0`` along with it. Nothing runs
    backward through the denoiser.

    Args:
        condition: A condition whose predictor sees noisy samples and the keyword argument ``timesteps [B]``, such as
            ``NoiseExperts``.
        scale: Guidance scale, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``scale`` is negative or not finite; when a sampler is made, if the predictor was trained on
            another number of timesteps.
    """

    cost = "denoiser 1 / 0, classifier 1 / 1"
    needs_grad = False

    def __init__(self, condition: Conditions = None, scale: float = 1.0, **interval: Any) -> None:
        super().__init__(condition, **interval)
        require_non_negative("scale", scale)
        self.scale = scale

    def for_run(self, run: Run) -> Self:
        """As ``ConditionedGuidance.for_run``.

        Raises:
            ValueError: If the run has no such condition, or its predictor does not take ``timesteps``.
        """
        ready = super().for_run(run)
        for condition in self._conditions(ready.condition):
            if not _takes_timesteps(condition.predictor):
                raise ValueError(
                    f"{type(self).__name__} needs a predictor of noisy samples, which is told their timesteps, but "
                    f"{type(condition.predictor).__name__} sees clean samples alone; use a method such as DPS"
                )
        return ready

    @staticmethod
    def _conditions(condition: Conditions) -> list[Condition]:
        single = condition.conditions if isinstance(condition, JointCondition) else [condition]
        return [one for one in single if isinstance(one, Condition)]

    def require_denoiser(self, denoiser: Denoiser) -> None:
        total = denoiser.schedule.num_timesteps
        for condition in self._conditions(self.condition):
            known = getattr(condition.predictor, "num_timesteps", total)
            if known != total:
                raise ValueError(
                    f"ClassifierGuidance has a classifier of {known} timesteps, but the denoiser's schedule has {total}"
                    "; train the classifier on that schedule"
                )

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        return prediction.with_x0(prediction.x0 + self.clean_move(x, prediction, step), step)

    def clean_move(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        a = prediction.level(step)
        return per_sample(self.scale * (1 - a) / a**0.5, x) * self.noisy_gradient(x, step)

    def look_ahead(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """As ``displacement``, without a call of the denoiser."""
        return self.scale * (1 - step.alpha_bar) * self.noisy_gradient(x, step)

    def noisy_gradient(self, x: Tensor, step: Step) -> Tensor:
        """``grad_x log p(c | x, t)`` for noisy samples ``x [B, ...]``, projected onto the space."""
        return self.gradient_at(x, step)

    def smoothed(self, x0: Tensor, step: Step) -> Tensor:
        """``log p(c | x, t)``, ``[B]``, for noisy samples ``x [B, ...]`` in place of clean ones."""
        if not isinstance(self.condition, Condition | JointCondition):
            raise self._without_condition()
        timesteps = on_device(step.timestep, x0.device).expand(len(x0))
        return self.condition.log_likelihood(x0, timesteps=timesteps, **step.space.inputs)


def _takes_timesteps(predictor: nn.Module) -> bool:
    try:
        parameters = inspect.signature(predictor.forward).parameters
    except ValueError:  # a scripted module has no signature
        return True
    return "timesteps" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
