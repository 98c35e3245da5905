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


class RealFeatureMetric(FeatureMetric):
    """Keeps the features of all real images, for metrics that need more of them than their moments.

    Args:
        features: See ``FeatureMetric``.
        column: Name of the row quantity.
    """

    def __init__(self, features: FeatureChoice, column: str) -> None:
        super().__init__(features, column)
        self._real: list[Tensor] = []

    def for_task(self, task: Any) -> Self:
        bound = super().for_task(task)
        bound._real = []
        return bound

    def add_real(self, batch: Any, device: torch.device) -> None:
        self._real.append(self.real_features(batch, device))

    @property
    def has_real(self) -> bool:
        """True if real images were added."""
        return bool(self._real)

    def evenly_spaced(self, count: int) -> Tensor:
        """Features of ``count`` real images, evenly spaced in the training data, or of all if there are fewer."""
        real = torch.cat(self._real)
        return real[torch.linspace(0, len(real) - 1, min(len(real), count)).round().long()]
