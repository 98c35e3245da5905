"""Guidance away from the prediction that the denoiser makes when told another timestep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step, on_device
from tag_lightning.diffusion.arguments import require_non_negative


class TimestepContrast(Guidance, ABC):
    """``epsilon^ = epsilon(x, t) + guidance_scale (epsilon(x, t) - epsilon(x, t~))`` for the same samples.

    ``x0`` follows ``epsilon^``. Costs a second forward pass of the denoiser.

    Args:
        guidance_scale: w, at least 0; 0 changes nothing. Classifier-free guidance in the form of its papers writes
            ``1 + w``.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` is negative or not finite; behind ``TimeCorrection`` or ``TimeShift``, which
            replace both timesteps by one, when a sampler is made.
    """

    steers = False

    def __init__(self, guidance_scale: float = 1.0, **interval: Any) -> None:
        super().__init__(**interval)
        require_non_negative("guidance_scale", guidance_scale)
        self.guidance_scale = guidance_scale

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        own = type(self).__name__
        for name in (type(other).__name__ for other in before if other.replaces_timestep):
            raise ValueError(
                f"{own} compares answers at two timesteps, and {name} before it replaces both; put {own} before {name}"
            )

    @abstractmethod
    def other_timestep(self, x: Tensor, step: Step) -> Tensor | int:
        """``t~``: a timestep in 0 .. T-1, or ``[B]`` of them."""

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        other = predict(x, self.other_timestep(x, step)).epsilon
        return prediction.with_epsilon(prediction.epsilon + self.guidance_scale * (prediction.epsilon - other), step)


class SelfGuidance(TimestepContrast):
    """Self-guidance (Li et al. 2024, arXiv 2412.05827): ``t~ = t + shift``, a noisier label for the same samples.

    Near pure noise ``t~`` stops at T-1.

    Args:
        guidance_scale: See ``TimestepContrast``.
        shift: Training timesteps, at least 0; 0 changes nothing.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` or ``shift`` is out of range.
    """

    cost = "denoiser 2 / 0"

    def __init__(self, guidance_scale: float = 1.0, shift: int = 10, **interval: Any) -> None:
        super().__init__(guidance_scale, **interval)
        if shift < 0:
            raise ValueError(f"shift must be at least 0 training timesteps, got {shift}")
        self.shift = shift

    def other_timestep(self, x: Tensor, step: Step) -> Tensor | int:
        last = step.num_timesteps - 1
        if isinstance(step.timestep, Tensor):
            return (step.timestep + self.shift).clamp(max=last)
        return min(step.timestep + self.shift, last)


class TimestepGuidance(TimestepContrast):
    """Time-step guidance (Sadat et al. 2024, arXiv 2407.02687) with a randomly perturbed timestep.

    ``t~ = t + spread T n`` with ``n ~ N(0, 1)`` for every sample, rounded and kept inside 0 .. T-1. The paper adds
    Gaussian noise to the embedding of the timestep inside the network. Here the timestep itself is perturbed, so that
    the method works with any denoiser.

    Args:
        guidance_scale: See ``TimestepContrast``.
        spread: Standard deviation of the perturbation as a fraction of T, at least 0; 0 changes nothing.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` or ``spread`` is out of range.
    """

    cost = "denoiser 2 / 0"

    def __init__(self, guidance_scale: float = 1.0, spread: float = 0.02, **interval: Any) -> None:
        super().__init__(guidance_scale, **interval)
        require_non_negative("spread", spread)
        self.spread = spread

    def other_timestep(self, x: Tensor, step: Step) -> Tensor:
        noise = on_device(step.noise_source.batch((1,))[:, 0], x.device)
        perturbed = step.timestep + self.spread * step.num_timesteps * noise
        return perturbed.round().long().clamp(0, step.num_timesteps - 1)
