"""Kernel distance between two sets of feature rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from tag_lightning.metrics.feature_metric import RealFeatureMetric
from tag_lightning.metrics.features import FeatureChoice


class KID(RealFeatureMetric):
    """Kernel distance ``kid`` of samples to the training data (Binkowski et al. 2018, arXiv 1801.01401), unbiased.

    The squared maximum mean discrepancy under the kernel ``(f . g / D + 1)^3``, by torchmetrics, as the mean over
    blocks of samples, each with as many real images. The blocks are disjoint and in the samples' order, where the
    published code draws overlapping ones at random. Unlike FID its expectation does not depend on the number of
    samples; it can be negative.

    Args:
        features: See ``FeatureMetric``.
        block_size: Samples per block, at least 2; a remainder of fewer is left out.

    Raises:
        ValueError: If ``block_size`` is below 2.
    """

    def __init__(self, features: FeatureChoice = "auto", block_size: int = 1000) -> None:
        super().__init__(features, "features_kid")
        if block_size < 2:
            raise ValueError(f"block_size must be at least 2, got {block_size}")
        self.block_size = block_size

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``kid``; nothing without real data, as under ``predict``."""
        if not self.has_real:
            return {}
        generated = rows[self.column]
        real = self.evenly_spaced(len(generated))
        size = min(self.block_size, len(real))
        whole = len(real) // size * size
        # Strides instead of runs: neighbours in the training data may be of one class.
        pairs = zip(real[:whole].reshape(size, -1, real.shape[1]).unbind(1), generated[:whole].split(size), strict=True)
        return {"kid": float(torch.stack([poly_mmd(a, b) for a, b in pairs]).mean())}
