"""Sampling of plain vectors: the toy experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tag_lightning.diffusion import BoxSpace
from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.figures import figure_pixels, quiver_2d, scatter_2d
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.guidance import TemporalAlignment
from tag_lightning.metrics import SampleMetric, Wasserstein

_FIELD_POINTS = 24
_DATA_POINTS = 1000


class VectorTask(SamplingTask):
    """Vectors of low dimension, measured by their Wasserstein distance ``w1`` to as many vectors of the data.

    Args:
        metrics: Additional metrics.
    """

    axes = ("D",)

    def __init__(self, metrics: list[SampleMetric] | None = None) -> None:
        super().__init__(metrics)

    def default_metrics(self) -> list[SampleMetric]:
        return [Wasserstein()]

    def space(self, indices: Sequence[int], device: torch.device) -> BoxSpace:
        """The space of the samples of these global indices, without bounds."""
        return BoxSpace(self.sample_shape, indices, device)

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """In the plane: the samples of every arm over the data, and the field of the time-linked score."""
        if self.sample_shape != (2,):
            return {}
        table = self.data.table("train")
        data = table[list(range(min(_DATA_POINTS, len(table))))].x
        samples = {name: result.samples.numpy() for name, result in results.items()}
        pictures = {"arms": figure_pixels(scatter_2d(samples, data.numpy()))}
        if predictor is not None:
            pictures["time_linked_score"] = figure_pixels(_score_field(predictor, data))
        return pictures


def _score_field(predictor: nn.Module, data: Tensor) -> Figure:
    """The time-linked score at the cleanest timestep, around the data."""
    device = next(predictor.parameters()).device
    side = torch.linspace(-1.6, 1.6, _FIELD_POINTS) * data.abs().max()
    grid = torch.cartesian_prod(side, side).to(device)
    score = TemporalAlignment(predictor).time_linked_score(grid, 0)
    # Lengths differ by orders of magnitude; the direction is what one looks for.
    shown = score / score.norm(dim=1, keepdim=True).clamp(min=1e-12) * score.norm(dim=1, keepdim=True).clamp(max=1)
    return quiver_2d(grid.cpu().numpy(), shown.cpu().numpy(), data.numpy())
