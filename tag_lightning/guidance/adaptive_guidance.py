"""Adaptive guidance (Castillo et al. 2023): classifier-free guidance until the condition no longer matters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import Predict, Prediction, Step
from tag_lightning.guidance.classifier_free import ConditionContrast, extrapolated


class AdaptiveGuidance(ConditionContrast):
    """Adaptive guidance, AG (Castillo et al. 2023, arXiv 2312.12487, Section 5).

    Classifier-free guidance of each sample up to and including the step at which the cosine between the predictions
    with and without the condition reaches ``agreement``; from then on the condition alone. The pass without the
    condition is skipped once no sample of the batch needs it; this check synchronises with the GPU once per step.

    The paper compares predicted noise, in a latent space. Near pure noise that is the sample itself whatever the
    condition, so that the two would agree at once; here the predicted ``x0``, clipped to the range of the space, are
    compared, which agree more and more on the way.

    Args:
        guidance_scale: w of ``CFG``.
        agreement: Cosine in (-1, 1] at which guidance stops. 1 hardly ever stops it.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``agreement`` is outside (-1, 1].
    """

    cost = "denoiser 2 / 0, 1 / 0 once all agree"

    def __init__(self, guidance_scale: float = 2.0, agreement: float = 0.99, **interval: Any) -> None:
        super().__init__(guidance_scale, **interval)
        if not -1 < agreement <= 1:
            raise ValueError(f"agreement must lie in (-1, 1], got {agreement}")
        self.agreement = agreement

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        # The last step that is guided, by sample: a second prediction in the same step gets the same answer.
        last = step.state.setdefault("last", torch.full((len(x),), torch.iinfo(torch.int64).max, device=x.device))
        guided = last >= step.index
        if not bool(guided.any()):
            return predict(x, step.timestep)
        conditional, unconditional = predict(x, step.timestep), predict(x, step.timestep, null_condition=True)
        first, second = (step.space.clip(one.x0.detach()).flatten(1) for one in (conditional, unconditional))
        cosine = torch.cosine_similarity(first, second)
        step.state["last"] = torch.where(guided & (cosine >= self.agreement), step.index, last)
        return extrapolated(conditional, unconditional, 1 + (self.guidance_scale - 1) * guided.to(x), step)
