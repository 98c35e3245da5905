"""Fidelity and diversity of generated images apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from tag_lightning.metrics.feature_metric import RealFeatureMetric
from tag_lightning.metrics.features import FeatureChoice


class PrecisionRecall(RealFeatureMetric):
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, Eq. 1 and 2), by torch-fidelity.

    ``precision`` is the share of samples inside the union of balls around real images, each as wide as the distance to
    its ``neighborhood``-th neighbour; ``recall`` the share of real images inside such balls around samples. As many
    real images as samples are used, evenly spaced in the training data. Compare only figures of the same features and
    number of samples.

    Args:
        features: See ``FeatureMetric``.
        neighborhood: Which neighbour sets the radius, at least 1.

    Raises:
        ValueError: If ``neighborhood`` is below 1, or there are not more samples than that.
    """

    def __init__(self, features: FeatureChoice = "auto", neighborhood: int = 3) -> None:
        super().__init__(features, "precision_recall")
        if neighborhood < 1:
            raise ValueError(f"neighborhood must be at least 1, got {neighborhood}")
        self.neighborhood = neighborhood

    def for_task(self, task: Any) -> Self:
        bound = super().for_task(task)
        if task.num_samples <= self.neighborhood:
            raise ValueError(
                f"num_samples is {task.num_samples}, but PrecisionRecall needs more than its neighborhood, "
                f"{self.neighborhood}; ask for more samples"
            )
        return bound

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``precision`` and ``recall`` in [0, 1]; nothing without real data, as under ``predict``."""
        if not self.has_real:
            return {}
        generated = rows[self.column]
        real = self.evenly_spaced(len(generated))
        found = prc_features_to_metric(
            generated, real, prc_neighborhood=self.neighborhood, save_cpu_ram=False, verbose=False
        )
        return {"precision": found["precision"], "recall": found["recall"]}
