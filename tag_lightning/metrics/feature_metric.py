"""The base of metrics that compare features of generated and real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.metrics.features import FeatureChoice, FeatureExtractor, feature_extractor
from tag_lightning.metrics.sample_metric import SampleMetric


class FeatureMetric(SampleMetric):
    """Rows of features; subclasses say what becomes of the real ones and of all rows together.

    Args:
        features: ``inception``, ``judge``, ``auto`` for Inception's if its weights are found and else the judge's,
            ``pixels``, or the name of another network with features.
        column: Name of the row quantity.
    """

    needs_real = True
    _extractor: FeatureExtractor | None = None

    def __init__(self, features: FeatureChoice, column: str) -> None:
        self.features = features
        self.column = column

    def for_task(self, task: Any) -> Self:
        bound = super().for_task(task)
        bound._extractor = feature_extractor(self.features, task.judge, task.sample_shape)
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {} if self._extractor is None else {self.column: self._extractor.num_features}

    @property
    def networks(self) -> list[nn.Module]:
        network = getattr(self._extractor, "network", self._extractor)
        return [network] if isinstance(network, nn.Module) else []

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {self.column: self.extract(x)}

    def extract(self, images: Tensor) -> Tensor:
        """Features ``[B, D]`` of images ``[B, C, H, W]``."""
        assert self._extractor is not None  # a metric without columns is left out
        return self._extractor(images)

    def real_features(self, batch: Any, device: torch.device) -> Tensor:
        """Features of a batch of real images, ``[B, D]`` on the CPU."""
        return self.extract(batch.x.to(device)).cpu()
