"""Noise Awareness Guidance (arXiv 2510.12497): the timestep as a condition to be strengthened."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step, per_sample
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.guidance.time_posterior import TimePredictorGuidance


class NoiseAwarenessGuidance(TimePredictorGuidance):
    """Noise Awareness Guidance by a posterior of the noise level (Zhong et al. 2025, arXiv 2510.12497).

    ``s(x | t) + guidance_scale grad_x log p(t | x)`` takes the place of the score, that is
    ``epsilon^ = epsilon - guidance_scale sqrt(1 - a) grad_x log p(t | x)`` with ``x0`` along with it. Costs one forward
    and one backward pass of the predictor.

    ``TemporalAlignment`` follows the same gradient in another place: it moves the sample before it is denoised, by a
    step of its own length, so the denoiser sees the moved sample. Here the denoiser sees the sample as it is, and a
    step of ``DDIM(eta=0)`` moves its end by
    ``guidance_scale sqrt(1 - a) (sqrt(a' (1 - a) / a) - sqrt(1 - a'))`` times the gradient. That factor shrinks with
    the step, so that the total over a run hardly depends on the number of steps; that of a TAG of constant strength
    grows with it.

    Args:
        predictor: See ``TimePredictorGuidance``.
        guidance_scale: w, at least 0; 0 changes nothing.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` is negative or not finite.
    """

    cost = "denoiser 1 / 0, predictor 1 / 1"

    def __init__(self, predictor: nn.Module | None = None, guidance_scale: float = 1.0, **interval: Any) -> None:
        super().__init__(predictor, **interval)
        self.guidance_scale = require_non_negative("guidance_scale", guidance_scale)

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        noise = per_sample((1 - prediction.level(step)) ** 0.5, x)
        score, _ = self.time_score(x, step)
        return prediction.with_epsilon(prediction.epsilon - self.guidance_scale * noise * score, step)


class ClassifierFreeNoiseAwareness(Guidance):
    """Noise Awareness Guidance without a predictor (Zhong et al. 2025, arXiv 2510.12497).

    ``epsilon^ = (1 + w) epsilon(x, t) - w epsilon(x)`` with the denoiser's answer ``epsilon(x)`` when it is not told
    the timestep, which it must have learned (``DiffusionModule(timestep_dropout=0.1)``). ``x0`` follows. Costs a second
    forward pass of the denoiser.

    The mixture is exact for scores. A network that predicts epsilon learns ``E[epsilon | x]``, in which every timestep
    weighs by its own ``sqrt(1 - a)``; the two agree where the posterior ``p(t | x)`` is narrow.

    Args:
        guidance_scale: w, at least 0; 0 changes nothing.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` is negative or not finite; with a denoiser that was always told its timestep,
            when the sampler is made.
    """

    steers = False
    cost = "denoiser 2 / 0"

    needs_null_timestep = True

    def __init__(self, guidance_scale: float = 1.0, **interval: Any) -> None:
        super().__init__(**interval)
        self.guidance_scale = require_non_negative("guidance_scale", guidance_scale)

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        aware = predict(x, step.timestep)
        unaware = predict(x, step.timestep, null_timestep=True).epsilon
        return aware.with_epsilon(aware.epsilon + self.guidance_scale * (aware.epsilon - unaware), step)
