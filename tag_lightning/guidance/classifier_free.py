"""Classifier-free guidance (Ho and Salimans 2022), and the base of its relatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Step, per_sample
from tag_lightning.diffusion.arguments import require_non_negative


class StrengthenedCondition(Guidance):
    """Guidance that makes a conditional denoiser follow the condition of each sample more closely.

    Outside ``start`` .. ``stop`` the denoiser is told the condition alone: the limited interval of Kynkaanniemi et al.
    2024 (arXiv 2404.07724), for every method of this kind.

    Args:
        guidance_scale: w, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` is negative or not finite; with a denoiser that was trained without dropout of
            its condition, or beside another method of this kind, when the sampler is made; with a space without
            conditions, before sampling.
    """

    needs_condition = True
    needs_null_condition = True

    def __init__(self, guidance_scale: float = 2.0, **interval: Any) -> None:
        super().__init__(**interval)
        self.guidance_scale = require_non_negative("guidance_scale", guidance_scale)

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        for name in (type(other).__name__ for other in before if isinstance(other, StrengthenedCondition)):
            raise ValueError(
                f"{name} and {type(self).__name__} both contrast the condition; keep one, or give them intervals "
                "(start, stop) that do not overlap"
            )


class ConditionContrast(StrengthenedCondition):
    """Guidance by the denoiser's answers with and without the condition of each sample.

    Costs a second forward pass of the denoiser. Both answers are those that the guidance earlier in the list makes of
    the denoiser.
    """

    def mixed(self, conditional: Prediction, unconditional: Prediction, step: Step) -> Prediction:
        """The prediction to step with, of those with and without the condition; both have the same noise level."""
        return extrapolated(conditional, unconditional, self.guidance_scale, step)

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        conditional = predict(x, step.timestep)
        return self.mixed(conditional, predict(x, step.timestep, null_condition=True), step)


class CFG(ConditionContrast):
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, Eq. 6).

    ``epsilon^ = epsilon(x) + w (epsilon(x, c) - epsilon(x))`` with ``x0`` along with it: 0 samples without the
    condition, 1 with it, and more strengthens it. The scale is that of diffusers; the paper writes ``1 + w`` for it.

    Args:
        guidance_scale: w, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    cost = "denoiser 2 / 0"


def extrapolated(conditional: Prediction, unconditional: Prediction, scale: float | Tensor, step: Step) -> Prediction:
    """``conditional`` with its noise extrapolated from the unconditional one, and ``x0`` along with it.

    ``epsilon^ = epsilon_u + scale (epsilon_c - epsilon_u)`` with one scale, or ``[B]`` of them.
    """
    weight = per_sample(scale, conditional.epsilon)
    difference = conditional.epsilon - unconditional.epsilon
    return conditional.with_epsilon(unconditional.epsilon + weight * difference, step)


def inner_product(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of the samples of two batches ``[B, ...]``, shaped to multiply them: ``[B, 1, ...]``."""
    values = (first * second).flatten(1).sum(1)
    return values.reshape(-1, *(1,) * (first.ndim - 1))
