"""CFG++ (Chung et al. 2024): classifier-free guidance that puts the unconditional noise back."""

from __future__ import annotations

from typing import Any

from tag_lightning.diffusion import Prediction, Step
from tag_lightning.guidance.classifier_free import ConditionContrast, extrapolated


class CFGPlusPlus(ConditionContrast):
    """CFG++ (Chung et al. 2024, arXiv 2406.08070, Algorithm 2).

    ``x0`` is that of classifier-free guidance at the scale lambda; the noise that the step puts back is the
    unconditional ``epsilon(x)``. So an interpolation, lambda within 0 .. 1, already strengthens the condition: at 1 the
    ``x0`` is conditional, as in classifier-free guidance at 1, but the noise is not. 0 samples without the condition.
    If images are clipped, their noise is moved along with ``x0``, as that of any prediction.

    Args:
        guidance_scale: lambda, in 0 .. 1; the paper uses 0.2 to 1.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` is outside 0 .. 1; with a solver that does not read the noise, such as
            ``DPMSolverPlusPlus``, when the sampler is made.
    """

    cost = "denoiser 2 / 0"

    needs_predicted_noise = True

    def __init__(self, guidance_scale: float = 0.6, **interval: Any) -> None:
        super().__init__(guidance_scale, **interval)
        if guidance_scale > 1:
            raise ValueError(
                f"guidance_scale of CFGPlusPlus must lie in 0 .. 1, got {guidance_scale}; for scales above 1 use CFG"
            )

    def mixed(self, conditional: Prediction, unconditional: Prediction, step: Step) -> Prediction:
        return extrapolated(conditional, unconditional, self.guidance_scale, step)._replace(
            epsilon=unconditional.epsilon
        )
