"""Fidelity and diversity of generated images apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch_fidelity.metric_prc import prc_features_to_metric

from tag_lightning.metrics.features import FeatureChoice, FeatureExtractor, feature_extractor
from tag_lightning.metrics.sample_metric import SampleMetric


class PrecisionRecall(SampleMetric):
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, Eq. 1 and 2), by torch-fidelity.

    ``precision`` is the share of samples inside the union of balls around real images, each as wide as the distance to
    its ``neighborhood``-th neighbour; ``recall`` the share of real images inside such balls around samples. As many
    real images as samples are used, evenly spaced in the training data. Compare only figures of the same features and
    number of samples.

    Args:
        features: See ``FID``.
        neighborhood: Which neighbour sets the radius, at least 1.

    Raises:
        ValueError: If ``neighborhood`` is below 1, or there are not more samples than that.
    """

    needs_real = True
    _extractor: FeatureExtractor | None = None

    def __init__(self, features: FeatureChoice = "auto", neighborhood: int = 3) -> None:
        if neighborhood < 1:
            raise ValueError(f"neighborhood must be at least 1, got {neighborhood}")
        self.features = features
        self.neighborhood = neighborhood
        self._real: list[Tensor] = []

    def for_task(self, task: Any) -> Self:
        bound = super().for_task(task)
        bound._extractor = feature_extractor(self.features, task.judge, task.sample_shape)
        bound._real = []
        if task.num_samples <= self.neighborhood:
            raise ValueError(
                f"num_samples is {task.num_samples}, but PrecisionRecall needs more than its neighborhood, "
                f"{self.neighborhood}; ask for more samples"
            )
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {} if self._extractor is None else {"precision_recall": self._extractor.num_features}

    @property
    def networks(self) -> list[nn.Module]:
        network = getattr(self._extractor, "network", self._extractor)
        return [network] if isinstance(network, nn.Module) else []

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        assert self._extractor is not None
        return {"precision_recall": self._extractor(x)}

    def add_real(self, batch: Any, device: torch.device) -> None:
        assert self._extractor is not None
        self._real.append(self._extractor(batch.x.to(device)).cpu())

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``precision`` and ``recall`` in [0, 1]; nothing without real data, as under ``predict``."""
        if not self._real:
            return {}
        generated, real = rows["precision_recall"], torch.cat(self._real)
        chosen = real[torch.linspace(0, len(real) - 1, min(len(real), len(generated))).round().long()]
        found = prc_features_to_metric(
            generated, chosen, prc_neighborhood=self.neighborhood, save_cpu_ram=False, verbose=False
        )
        return {"precision": found["precision"], "recall": found["recall"]}
