"""The statistics of real images that a comparison needs, in a small file in place of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tag_lightning.datamodules.batch import Batch
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.statistics import StatisticsDataModule, TableWithoutSamples
from tag_lightning.datamodules.statistics_file import ReferenceStates, read_statistics, write_statistics


@dataclass(frozen=True)
class ImageStatistics:
    """The statistics of a data set of images that a comparison needs; they contain no image.

    Attributes:
        shape: ``(C, H, W)``.
        num_images: Number of training images.
        num_classes: Number of classes of each class attribute.
        reference_states: State of each metric by class name, see ``SampleMetric.reference_state``.
    """

    shape: tuple[int, ...]
    num_images: int
    num_classes: dict[str, int]
    reference_states: ReferenceStates

    @classmethod
    def of(cls, data: ImageDataModule, reference_states: Mapping[str, dict[str, Any]]) -> ImageStatistics:
        """The statistics of a data module, with the states of metrics that were prepared on it."""
        num_images = len(data.table("train"))  # type: ignore[arg-type]
        return cls(data.sample_shape, num_images, dict(data.num_classes), dict(reference_states))

    def save(self, path: Path) -> None:
        """Write the file, see ``write_statistics``."""
        settings = {"shape": self.shape, "num_images": self.num_images, "num_classes": self.num_classes}
        write_statistics(path, settings, {}, self.reference_states)

    @classmethod
    def load(cls, path: Path) -> ImageStatistics:
        """Read what ``save`` wrote, see ``read_statistics``."""

        def build(settings: dict[str, Any], tensors: dict[str, Tensor], states: ReferenceStates) -> ImageStatistics:
            return cls(tuple(settings["shape"]), settings["num_images"], dict(settings["num_classes"]), states)

        return read_statistics(path, "images", build)


class ImageStatisticsDataModule(StatisticsDataModule):
    """Statistics of a data set of images; see ``StatisticsDataModule``.

    Frechet distances are those to the data set itself. Metrics that need more of the real images than the moments of
    their features are refused.

    Args:
        file: A file of ``ImageStatistics``, or a shipped one's name.
        batch_size: Images per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds something else.
    """

    def __init__(self, file: str, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(file, batch_size, **kwargs)
        self._statistics = ImageStatistics.load(self._path)
        self.reference_states = self._statistics.reference_states
        self.num_classes = self._statistics.num_classes

    @property
    def network_arguments(self) -> dict[str, Any]:
        channels, size, _ = self.sample_shape
        return ImageDataModule.image_arguments(size, channels, self.num_classes)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """``(C, H, W)``."""
        return self._statistics.shape

    @property
    def example(self) -> Batch:
        """A batch of one grey image of the first class, for trial runs of networks."""
        classes = {name: torch.zeros(1, dtype=torch.long) for name in self.num_classes}
        return Batch(torch.zeros(1, *self.sample_shape), classes, {})

    def train_table(self) -> Dataset:
        return TableWithoutSamples(type(self).__name__, self._statistics.num_images)
