"""An estimate of the noise in an image from the covariance of its patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Predict, Step, on_device
from tag_lightning.guidance.noise_level import NoiseLevel


class PatchNoise(NoiseLevel):
    """Noise level by the eigenvalues of the patch covariance (Chen, Zhu and Heng, ICCV 2015, Algorithm 1).

    Patches of a natural image lie near a subspace, so the smallest eigenvalues of their covariance are those of the
    noise. Eigenvalues are dropped from the largest on until the mean of the rest is their median; it is the variance
    of the noise. Needs no training, and sees less of the texture as noise than ``WaveletNoise`` does.

    Args:
        patch_size: Side p of the patches, at least 2; an image must hold more patches than a patch of C channels has
            values, ``C p^2``. The paper has 8, for photographs; 3 errs least on 32x32 images, 2 on 16x16.

    Raises:
        ValueError: If ``patch_size`` is below 2.
    """

    def __init__(self, patch_size: int = 3) -> None:
        if patch_size < 2:
            raise ValueError(f"patch_size must be at least 2, got {patch_size}")
        self.patch_size = patch_size

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """See ``NoiseLevel``; ``x`` is ``[B, C, H, W]``.

        Raises:
            ValueError: If ``x`` is not a batch of images, or the images are too small for the patches.
        """
        side = self.patch_size
        size = x.shape[1] * side**2 if x.ndim == 4 else 0
        if x.ndim != 4 or (x.shape[2] - side + 1) * (x.shape[3] - side + 1) <= size or min(x.shape[2:]) < side:
            raise ValueError(
                f"PatchNoise needs images [B, C, H, W] with more patches of {side} x {side} than values in one, got "
                f"{list(x.shape)}"
            )
        patches = nn.functional.unfold(x, side)
        patches = patches - patches.mean(2, keepdim=True)
        covariance = patches @ patches.mT / patches.shape[2]
        variances = torch.linalg.eigvalsh(covariance.double()).flip(1)  # [B, size], the largest first
        variance = _mean_that_is_the_median(variances).to(x.dtype)
        power = on_device(step.alpha_bar, x.device, x.dtype)
        return 0.5 * (variance.clamp(min=torch.finfo(x.dtype).tiny).log() - (1 - power).log())


def _mean_that_is_the_median(falling: Tensor) -> Tensor:
    """Mean of ``falling[b, i:]`` for the first i at which as many of these values lie above it as below, ``[B]``."""
    count = torch.arange(falling.shape[1], 0, -1, device=falling.device)
    means = falling.flip(1).cumsum(1).flip(1) / count
    kept = torch.ones_like(falling[0], dtype=torch.bool).expand(len(count), -1).triu()  # [i, j]: j is kept from i on
    values, mean = falling[:, None, :], means[:, :, None]
    balance = ((values > mean) & kept).sum(2) - ((values < mean) & kept).sum(2)
    first = (balance == 0).int().argmax(1)  # the last value alone is always balanced
    return means.gather(1, first[:, None])[:, 0]
