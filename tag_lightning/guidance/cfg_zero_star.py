"""CFG-Zero* (Fan et al. 2025): classifier-free guidance of the velocity, with an optimised unconditional scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import Prediction, Step, per_sample
from tag_lightning.guidance.classifier_free import ConditionContrast, inner_product


class CFGZeroStar(ConditionContrast):
    """CFG-Zero* (Fan et al. 2025, arXiv 2503.18886, Algorithm 1), for variance-preserving diffusion.

    ``v^ = s v(x) + w (v(x, c) - s v(x))`` with ``s = <v(x, c), v(x)> / |v(x)|^2`` for each sample, and zero velocity in
    the first steps. The paper is about flow matching, whose velocity is ``dx / dt``. Here v is
    ``sqrt(a) epsilon - sqrt(1 - a) x0``, the derivative of a variance-preserving sample with respect to
    ``arccos sqrt(a)`` (Salimans and Ho 2022, App. D). 1 samples with the condition after the first steps, 0 with
    ``s v(x)`` rather than without the condition.

    Args:
        guidance_scale: w, at least 0.
        zero_init_steps: Number of first steps with zero velocity, at least 0; 1 is published.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``zero_init_steps`` is negative.
    """

    cost = "denoiser 2 / 0"

    def __init__(self, guidance_scale: float = 2.0, zero_init_steps: int = 1, **interval: Any) -> None:
        super().__init__(guidance_scale, **interval)
        if zero_init_steps < 0:
            raise ValueError(f"zero_init_steps must be at least 0, got {zero_init_steps}")
        self.zero_init_steps = zero_init_steps

    def mixed(self, conditional: Prediction, unconditional: Prediction, step: Step) -> Prediction:
        a = torch.as_tensor(conditional.level(step), dtype=torch.float64)
        signal, noise = (per_sample(part.sqrt(), conditional.x0) for part in (a, 1 - a))
        x = signal * conditional.x0 + noise * conditional.epsilon
        v_conditional, v_unconditional = (signal * one.epsilon - noise * one.x0 for one in (conditional, unconditional))
        velocity = (
            self._guided(v_conditional, v_unconditional) if step.index >= self.zero_init_steps else torch.zeros_like(x)
        )
        return conditional._replace(epsilon=noise * x + signal * velocity, x0=signal * x - noise * velocity)

    def _guided(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        tiny = torch.finfo(unconditional.dtype).tiny
        reference = (
            inner_product(conditional, unconditional)
            / inner_product(unconditional, unconditional).clamp(min=tiny)
            * unconditional
        )
        return reference + self.guidance_scale * (conditional - reference)
