"""Sampling of images of given classes and other attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import ImageSpace, LatentSpace
from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.figures import comparison_strip, figure_pixels, sample_grid
from tag_lightning.evaluation.image_targets import ClassTarget, ImageTarget
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.guidance import Condition
from tag_lightning.metrics import FID, Accuracy, Conjunction, FeatureChoice, QuantityError, SampleMetric

_STRIP_COLUMNS = 4
_STRIP_SAMPLES = 16


class ImageTask(SamplingTask):
    """Images of given classes, measured by ``fid`` and by the ``accuracy`` of a classifier that did not guide.

    Sample ``i`` is asked to be of class ``labels[i % len(labels)]``. Further targets ask for other attributes at the
    same time; classes of several attributes are asked for in all combinations, the first attribute changing fastest.
    Each target is a condition of its name. A network is a shipped one's name (``digits/guide``), a folder, a
    checkpoint, or a module.

    Args:
        guide: Classifier of clean images whose gradient guides.
        judge: Another classifier, which scores and never guides.
        attribute: The attribute of the data that guide and judge classify; the name of the condition.
        labels: The classes asked for, in turn; None asks for all of them.
        features: Features of the Frechet distance. ``auto`` is Inception if its weights are found, else the judge.
        metrics: Additional metrics.
        further_targets: Further attributes asked for, by name: ``ClassTarget`` or ``QuantityTarget``. They add
            ``accuracy_<name>`` and ``accuracy_all``, and ``mae_<name>`` of quantities.
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
        further_targets: dict[str, ImageTarget] | None = None,
    ) -> None:
        super().__init__(metrics)
        self.attribute = attribute
        self.features = features
        self.further: dict[str, ImageTarget] = further_targets or {}
        self._own = ClassTarget(guide, judge, labels)

    def load(self) -> None:
        self._own = self._own.for_data(self.attribute, self.data)
        self.guide, self.judge = self._own.guide, self._own.judge
        bound: dict[str, ImageTarget] = {}
        period = self._own.num_classes
        for name, target in self.further.items():
            try:
                if name == self.attribute:
                    raise ValueError("the task asks for this attribute already; change its labels, or the name")
                bound[name] = target.for_data(name, self.data, period)
            except ValueError as error:
                raise ValueError(f"further_targets {name}: {error}") from error
            period *= bound[name].num_classes
        self.further = bound

    def default_metrics(self) -> list[SampleMetric]:
        return [FID(self.features), Accuracy(), Conjunction(), QuantityError()]

    @property
    def guided(self) -> bool:
        return bool(self.guides)

    @property
    def guides(self) -> list[nn.Module]:
        return [target.guide for target in self._asked.values() if target.guide is not None]

    @property
    def networks(self) -> list[nn.Module]:
        roles = [network for target in self.further.values() for network in (target.guide, target.judge)]
        return super().networks + [network for network in roles if network is not None]

    def space(self, indices: Sequence[int], device: torch.device) -> ImageSpace:
        return image_space(self, indices, device)

    def targets(self, indices: Sequence[int]) -> Tensor:
        """The classes of ``attribute`` asked of these samples, ``[B]``."""
        return self._own.values(indices, self.seed)

    def asked(self, attributes: Mapping[str, Tensor]) -> Tensor:
        """True for real images, given by their attributes, of the classes of ``attribute`` asked for, ``[B]``."""
        return self._own.asks_for(attributes[self.attribute])

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        return {
            name: target.condition(indices, self.seed, device)
            for name, target in self._asked.items()
            if target.guide is not None
        }

    def attributes(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        values = {name: target.values(indices, self.seed) for name, target in self._asked.items()}
        return {name: value.to(device) for name, value in values.items() if value is not None}

    @property
    def _asked(self) -> dict[str, ImageTarget]:
        return {self.attribute: self._own, **self.further}

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """A grid of samples per arm, and the first samples of all arms side by side."""
        samples = {name: result.samples for name, result in results.items()}
        grids = {f"samples/{name}": sample_grid(images) for name, images in samples.items()}
        return grids | {"arms": side_by_side(samples)}


def image_space(task: SamplingTask, indices: Sequence[int], device: torch.device) -> ImageSpace:
    """The space of images of these global indices, or of their latents if the task has an autoencoder."""
    if task.autoencoder is None:
        return ImageSpace(task.sample_shape, indices, device)
    return LatentSpace(tuple(task.example.x.shape[1:]), task.autoencoder, indices, device)


def side_by_side(sets: Mapping[str, Tensor]) -> Tensor:
    """The first of several sets of images ``[B, C, H, W]`` side by side, bytes ``[3, H', W']``."""
    first = {name: sample_grid(images[:_STRIP_SAMPLES], _STRIP_COLUMNS) for name, images in sets.items()}
    return figure_pixels(comparison_strip(first))
