"""PSNR and SSIM of restored images, and the base of metrics that compare with originals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from tag_lightning.metrics.sample_metric import SampleMetric

# Images lie in [-1, 1].
_DATA_RANGE = 2.0


class RestorationMetric(SampleMetric):
    """Base of metrics that compare each restored sample with its original, by the mean over samples.

    Needs a task with ``originals(indices)``.

    Attributes:
        name: Name of the row quantity and of the figure.
        measured: The kind of samples that the metric measures, and their number of axes.
    """

    name: str
    measured: tuple[str, int] = ("images", 3)

    def for_task(self, task: Any) -> Self:
        """Bind to the task.

        Raises:
            ValueError: If the task has no originals, or draws samples of another kind.
        """
        (kind, axes), own, drawn = self.measured, type(self).__name__, type(task).__name__
        if not hasattr(task, "originals"):
            raise ValueError(
                f"metrics: {own} compares restored samples with their originals, which {drawn} does not have; use "
                "RestorationTask or AudioRestorationTask, or remove the metric"
            )
        if len(task.sample_shape) != axes:
            raise ValueError(f"metrics: {own} measures {kind}, which {drawn} does not draw here; remove the metric")
        return super().for_task(task)

    @property
    def columns(self) -> dict[str, int]:
        return {self.name: 1}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {self.name: self.compared(x.clamp(-1, 1), self.task.originals(indices).to(x))}

    @abstractmethod
    def compared(self, restored: Tensor, originals: Tensor) -> Tensor:
        """One number per sample, ``[B]``, for samples ``[B, ...]`` in [-1, 1]."""

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {self.name: float(rows[self.name].mean())}


class PSNR(RestorationMetric):
    """Peak signal-to-noise ratio ``psnr`` in dB, by torchmetrics; the mean over images, not that of the mean error."""

    name = "psnr"

    def compared(self, restored: Tensor, originals: Tensor) -> Tensor:
        return peak_signal_noise_ratio(restored, originals, _DATA_RANGE, reduction="none", dim=(1, 2, 3))


class SSIM(RestorationMetric):
    """Structural similarity ``ssim`` (Wang et al. 2004), at most 1, by torchmetrics.

    The window is Gaussian with a standard deviation of 1.5 pixels, 11x11; smaller images are not measured.
    """

    name = "ssim"

    @property
    def columns(self) -> dict[str, int]:
        return super().columns if min(self.task.sample_shape[1:]) >= 11 else {}

    def compared(self, restored: Tensor, originals: Tensor) -> Tensor:
        similarity = structural_similarity_index_measure(restored, originals, data_range=_DATA_RANGE, reduction="none")
        assert isinstance(similarity, Tensor)
        return similarity.reshape(len(restored))
