"""Sampling of images of given classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import ImageSpace
from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.figures import comparison_strip, figure_pixels, sample_grid
from tag_lightning.evaluation.networks import display_name, load_guide_and_judge
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.guidance import Condition
from tag_lightning.metrics import FID, Accuracy, FeatureChoice, SampleMetric

_STRIP_COLUMNS = 4
_STRIP_SAMPLES = 16


class ImageTask(SamplingTask):
    """Images of given classes, measured by ``fid`` and by the ``accuracy`` of a classifier that did not guide.

    Sample ``i`` is asked to be of class ``labels[i % len(labels)]``. A network is a shipped one's name
    (``digits/guide``), a folder, a checkpoint, or a module.

    Args:
        guide: Classifier of clean images whose gradient guides.
        judge: Another classifier, which scores and never guides.
        attribute: The attribute of the data that guide and judge classify; the name of the condition.
        labels: The classes asked for, in turn; None asks for all of them.
        features: Features of the Frechet distance. ``auto`` is Inception if its weights are found, else the judge.
        metrics: Metrics beside the default ones.
    """

    axes = ("C", "H", "W")

    def __init__(
        self,
        guide: str | nn.Module | None = None,
        judge: str | nn.Module | None = None,
        attribute: str = "label",
        labels: list[int] | None = None,
        features: FeatureChoice = "auto",
        metrics: list[SampleMetric] | None = None,
    ) -> None:
        super().__init__(metrics)
        self.sources = {"guide": guide, "judge": judge}
        self.attribute = attribute
        self.labels = labels
        self.features = features

    def load(self) -> None:
        example, counts = self.data.example, self.data.num_classes
        if self.attribute not in counts:
            listed = ", ".join(sorted(counts)) or "(none)"
            raise ValueError(f"attribute is {self.attribute!r}, but the data have {listed}")
        classes = counts[self.attribute]
        networks = load_guide_and_judge(**self.sources, example=example)
        for role, network in networks.items():
            known = getattr(network, "num_classes", None)
            if network is not None and known != classes:
                raise ValueError(
                    f"{role} {display_name(self.sources[role])} tells {known} classes apart, but the data have "
                    f"{classes} of {self.attribute!r}"
                )
        self.guide, self.judge = networks["guide"], networks["judge"]
        labels = list(range(classes)) if self.labels is None else self.labels
        if not labels or not all(0 <= label < classes for label in labels):
            raise ValueError(f"labels must be classes 0 .. {classes - 1} of {self.attribute!r}, got {self.labels}")
        self._labels = torch.tensor(labels)

    def default_metrics(self) -> list[SampleMetric]:
        return [FID(self.features), Accuracy()]

    def space(self, indices: Sequence[int], device: torch.device) -> ImageSpace:
        return ImageSpace(self.sample_shape, indices, device)

    def targets(self, indices: Sequence[int]) -> Tensor:
        """The classes asked of these samples, ``[B]``."""
        return self._labels[torch.tensor(indices) % len(self._labels)]

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        return {} if self.guide is None else {self.attribute: Condition(self.guide, self.targets(indices).to(device))}

    def attributes(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        return {self.attribute: self.targets(indices).to(device)}

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """A grid of samples per arm, and the first samples of all arms side by side."""
        samples = {name: result.samples for name, result in results.items()}
        grids = {f"samples/{name}": sample_grid(images) for name, images in samples.items()}
        first = {name: sample_grid(images[:_STRIP_SAMPLES], _STRIP_COLUMNS) for name, images in samples.items()}
        return grids | {"arms": figure_pixels(comparison_strip(first))}
