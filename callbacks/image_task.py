"""What guided images are asked for, and how they are judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tag_lightning.callbacks.figures import comparison_strip, figure_pixels, sample_grid
from tag_lightning.callbacks.task import ArmResult, SamplingTask
from torch import Tensor, nn

from tag_lightning.diffusion import ImageSpace
from tag_lightning.guidance import Condition
from tag_lightning.metrics import FeatureExtractor, FrechetDistance

_STRIP_COLUMNS = 4
_STRIP_SAMPLES = 16


class ImageTask(SamplingTask):
    """Images of given classes, judged by Frechet distance and by a classifier that did not guide.

    Sample ``i`` is asked to be of class ``labels[i % len(labels)]``.

    Args:
        sample_shape: ``(C, H, W)``.
        labels: The classes asked for.
        attribute: What the classes are of; the name of the condition.
        guide: Classifier of clean images that conditions guide by.
        judge: Another one, which scores.
        features: Of the Frechet distance.
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        labels: Sequence[int],
        attribute: str,
        guide: nn.Module | None,
        judge: nn.Module | None,
        features: FeatureExtractor | None,
    ) -> None:
        self.sample_shape = tuple(sample_shape)
        self.labels = torch.tensor(labels)
        self.attribute = attribute
        self.guide = guide
        self.guided = guide is not None
        self.features_name = getattr(features, "name", None)
        self.judge = judge
        self.features = features
        self._distance = None if features is None else FrechetDistance(features.num_features)

    @property
    def columns(self) -> dict[str, int]:
        columns = {} if self.features is None else {"features": self.features.num_features}
        return columns if self.judge is None else columns | {"correct": 1}

    @property
    def networks(self) -> list[nn.Module]:
        return [network for network in (self.guide, self.judge, self.features) if isinstance(network, nn.Module)]

    def space(self, indices: Sequence[int], device: torch.device) -> ImageSpace:
        return ImageSpace(self.sample_shape, indices, device)

    def targets(self, indices: Sequence[int]) -> Tensor:
        """The classes asked of these samples, ``[B]``."""
        return self.labels[torch.tensor(indices) % len(self.labels)]

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        return {} if self.guide is None else {self.attribute: Condition(self.guide, self.targets(indices).to(device))}

    def told(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        return {self.attribute: self.targets(indices).to(device)}

    def measure(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        rows: dict[str, Tensor] = {}
        if self.features is not None:
            rows["features"] = self.features(x)
        if self.judge is not None:
            rows["correct"] = (self.judge(x).argmax(1) == self.targets(indices).to(x.device)).double()[:, None]
        return rows

    def prepare(self, reference: Iterable[Any], device: torch.device) -> None:
        if self.features is None or self._distance is None or self.num_reference:
            return
        count = 0
        for batch in reference:
            self._distance.update(self.features(batch.x.to(device)).cpu(), real=True)
            count += len(batch.x)
        self.num_reference = count

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """A grid of every arm's samples, and the first of all arms side by side."""
        samples = {name: result.samples for name, result in results.items()}
        grids = {f"samples/{name}": sample_grid(images) for name, images in samples.items()}
        first = {name: sample_grid(images[:_STRIP_SAMPLES], _STRIP_COLUMNS) for name, images in samples.items()}
        return grids | {"arms": figure_pixels(comparison_strip(first))}

    def summarize(self, rows: dict[str, Tensor]) -> dict[str, float]:
        """``fid`` and ``accuracy`` (in [0, 1]) of all samples' rows, as far as they can be had."""
        figures: dict[str, float] = {}
        if self._distance is not None and self.num_reference:
            self._distance.reset(keep_real=True)
            self._distance.update(rows["features"].cpu(), real=False)
            figures["fid"] = float(self._distance.compute())
        if "correct" in rows:
            figures["accuracy"] = float(rows["correct"].mean())
        return figures
