"""The classical estimate of the noise in an image."""

from __future__ import annotations

import torch
from torch import Tensor

from tag_lightning.diffusion import Predict, Step, on_device
from tag_lightning.guidance.noise_level import NoiseLevel

# The median of |z| for a standard normal z.
_MEDIAN = 0.6744897501960817


class WaveletNoise(NoiseLevel):
    """Median absolute value of the finest diagonal wavelet detail over 0.6745 (Donoho and Johnstone 1994).

    With the Haar wavelet, over all channels. Needs no training and knows nothing of the data: fine texture counts as
    noise, so it is meant for smooth images, or inside a ``CalibratedNoise``.
    """

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """See ``NoiseLevel``; ``x`` is ``[B, C, H, W]`` with H and W at least 2.

        Raises:
            ValueError: If ``x`` is not a batch of images.
        """
        if x.ndim != 4 or min(x.shape[2:]) < 2:
            raise ValueError(f"WaveletNoise needs images [B, C, H, W] of at least 2 x 2, got {list(x.shape)}")
        x = x[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
        rows = x[..., ::2, :] - x[..., 1::2, :]
        detail = (rows[..., ::2] - rows[..., 1::2]) / 2
        sigma = detail.flatten(1).abs().median(1).values / _MEDIAN
        power = on_device(step.alpha_bar, x.device, x.dtype)
        return sigma.clamp(min=torch.finfo(x.dtype).tiny).log() - 0.5 * (1 - power).log()
