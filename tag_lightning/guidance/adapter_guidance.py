"""Adapter guidance distillation (Jensen and Sadat 2025): classifier-free guidance in one pass."""

from __future__ import annotations

import torch

from tag_lightning.diffusion import Denoiser, Predict, Prediction, Step
from tag_lightning.guidance.classifier_free import StrengthenedCondition


class AdapterGuidance(StrengthenedCondition):
    """Classifier-free guidance by distilled adapters, AGD (Jensen and Sadat 2025, arXiv 2503.07274).

    The denoiser is an ``AdaptedUNet``, such as ``digits/guidance_adapters``. Its adapters are told the scale and answer
    as the contrast of two passes would. Outside ``start`` .. ``stop``, and for the other guidances of the list, the
    adapters are off and the denoiser is the one that they were trained on.

    Args:
        guidance_scale: w of ``CFG``, inside the range that the adapters were trained in.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: When a sampler is made, if its denoiser has no adapters, or they were trained at other scales.
    """

    cost = "denoiser 1 / 0"

    def require_denoiser(self, denoiser: Denoiser) -> None:
        known = denoiser.scale_range
        if known is None:
            raise ValueError(
                "AdapterGuidance needs a denoiser with guidance adapters, which this one is not; take "
                "digits/guidance_adapters, or train adapters with GuidanceDistillationModule"
            )
        low, high = known
        if not low <= self.guidance_scale <= high:
            raise ValueError(
                f"guidance_scale must lie in {low:g} .. {high:g}, in which the adapters were trained, got "
                f"{self.guidance_scale}; CFG takes any scale"
            )

    def denoise(self, x: torch.Tensor, step: Step, predict: Predict) -> Prediction:
        if not step.space.denoiser_inputs:  # another guidance asks for the answer without the condition
            return predict(x, step.timestep)
        scales = torch.full((len(x),), self.guidance_scale, device=x.device, dtype=x.dtype)
        return predict(x, step.timestep, guidance_scale=scales)
