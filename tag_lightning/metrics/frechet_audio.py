"""Frechet audio distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from tag_lightning.metrics.frechet import FID, FrechetDistance
from tag_lightning.metrics.sample_metric import SampleMetric
from tag_lightning.metrics.vggish import EXAMPLE, SAMPLE_RATE, VGGish, vggish_weights


class FAD(FID):
    """Frechet distance ``fad`` of VGGish embeddings to the training data (Kilgour et al. 2019, arXiv 1812.08466).

    Mean and covariance are those of the embeddings of every 0.96 s of all samples. Without VGGish's weights, and for
    clips shorter than 0.975 s, the metric is left out, and a warning says so.
    """

    _count = 1  # embeddings per sample

    def __init__(self) -> None:
        super().__init__(name="fad")

    def for_task(self, task: Any) -> Self:
        if not hasattr(task.data, "sample_rate"):
            raise ValueError(
                f"metrics: FAD compares sounds, but {type(task.data).__name__} has no sample rate; remove the metric"
            )
        bound = SampleMetric.for_task(self, task)  # its features cannot be chosen
        length, rate = task.sample_shape[-1], task.data.sample_rate
        if length < EXAMPLE * rate / SAMPLE_RATE:
            rank_zero_warn(
                f"fad is left out: VGGish needs clips of {EXAMPLE / SAMPLE_RATE} s, these have {length / rate:.3g} s"
            )
        elif not vggish_weights().is_file():
            rank_zero_warn(f"fad is left out: no weights at {vggish_weights()}")
        else:
            network = VGGish(rate)
            bound._extractor, bound._count = network, network.examples(length)
            bound._distance = FrechetDistance(network.num_features)
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {name: self._count * width for name, width in super().columns.items()}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {self.column: self.extract(x).flatten(1)}

    def add_real(self, batch: Any, device: torch.device) -> None:
        self._distance.update(self.real_features(batch, device).flatten(0, 1), real=True)

    def totals(self, rows: Mapping[str, Tensor], indices: Sequence[int]) -> dict[str, Tensor]:
        embeddings = rows[self.column].reshape(-1, self._distance.num_features)
        return super().totals({self.column: embeddings}, [i for i in indices for _ in range(self._count)])
