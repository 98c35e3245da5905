"""Restoration of real images from noisy measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import BoxSpace, SampleNoise
from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.figures import sample_grid
from tag_lightning.evaluation.image_task import image_space, side_by_side
from tag_lightning.evaluation.networks import load_guide_and_judge
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.guidance import Condition
from tag_lightning.measurements import Measurement
from tag_lightning.metrics import FID, LPIPS, PSNR, SSIM, FeatureChoice, SampleMetric

# Apart from the streams of the reverse loop and of targets.
_MEASUREMENT_STREAM = 3


class RestorationTask(SamplingTask):
    """Images of the test split restored from measurements, guided by ``-|y - A x0|`` (arXiv 2209.14687).

    Sample ``i`` restores one test image, drawn without replacement as long as there are any; the noise of its
    measurement follows from the seed and ``i`` alone. The condition is named ``measurement``. Measured by ``fid`` to
    the training data, ``psnr`` (dB), ``ssim`` and, if its weights are found, ``lpips``.

    Args:
        measurement: The operator and its noise.
        judge: Network whose features the Frechet distance may use; see ``ImageTask``.
        features: Features of the Frechet distance, see ``ImageTask``.
        metrics: Additional metrics.
    """

    axes: tuple[str, ...] = ("C", "H", "W")
    guided = True

    def __init__(
        self,
        measurement: Measurement,
        judge: str | nn.Module | None = None,
        features: FeatureChoice = "auto",
        metrics: list[SampleMetric] | None = None,
    ) -> None:
        super().__init__(metrics)
        self.measurement = measurement
        self.source = judge
        self.features = features

    def load(self) -> None:
        try:
            self.measurement.require_shape(self.sample_shape)
        except ValueError as error:
            raise ValueError(f"measurement {type(self.measurement).__name__}: {error}") from error
        self.judge = load_guide_and_judge(None, self.source, self.data.example)["judge"]
        self._table = self.data.table("test")

    def default_metrics(self) -> list[SampleMetric]:
        return [FID(self.features), PSNR(), SSIM(), LPIPS()]

    def space(self, indices: Sequence[int], device: torch.device) -> BoxSpace:
        return image_space(self, indices, device)

    def originals(self, indices: Sequence[int]) -> Tensor:
        """The samples to be restored, ``[B, ...]`` on the CPU."""
        order = np.random.default_rng(self.seed).permutation(len(self._table))
        return self._table[[int(order[i % len(order)]) for i in indices]].x

    def measured(self, indices: Sequence[int]) -> tuple[Measurement, Tensor]:
        """The operator of these samples and their noisy measurements, ``[B, ...]`` on the CPU."""
        operator = self.measurement.for_samples(self.sample_shape, indices, self.seed)
        source = SampleNoise(self.seed, indices, _MEASUREMENT_STREAM)
        return operator, operator.measure(self.originals(indices), source)

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        operator, measurements = self.measured(indices)
        return {"measurement": operator.condition(measurements.to(device), self.sample_shape)}

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """A grid of samples per arm; originals, measurements and the first samples of all arms side by side."""
        samples = {name: result.samples for name, result in results.items()}
        grids = {f"samples/{name}": sample_grid(images) for name, images in samples.items()}
        indices = range(len(next(iter(samples.values()))))
        given = {"original": self.originals(indices), "measurement": self.measured(indices)[1]}
        return grids | {"arms": side_by_side(given | samples)}
