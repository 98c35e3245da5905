"""How points in the plane are judged and drawn: the toy experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from tag_lightning.callbacks.figures import figure_pixels, quiver_2d, scatter_2d
from tag_lightning.callbacks.task import ArmResult, SamplingTask
from torch import Tensor, nn

from tag_lightning.diffusion import ImageSpace
from tag_lightning.guidance import TemporalAlignment

_FIELD_POINTS = 24


class PointTask(SamplingTask):
    """Points of low dimension, judged by their Wasserstein distance to as many points of the data.

    Args:
        sample_shape: ``(D,)``.
    """

    def __init__(self, sample_shape: Sequence[int]) -> None:
        self.sample_shape = tuple(sample_shape)
        self._data: Tensor | None = None

    @property
    def columns(self) -> dict[str, int]:
        return {"points": self.sample_shape[0]}

    def space(self, indices: Sequence[int], device: torch.device) -> ImageSpace:
        """Where the samples of these global indices live: all of space, without bounds."""
        return ImageSpace(self.sample_shape, indices, device, clip_range=None)

    def measure(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        """The points themselves, ``[B, D]``."""
        return {"points": x}

    def prepare(self, reference: Iterable[Any], device: torch.device) -> None:
        if self._data is None:
            self._data = torch.cat([batch.x for batch in reference])
            self.num_reference = len(self._data)

    def summarize(self, rows: dict[str, Tensor]) -> dict[str, float]:
        """``w1``, the 1-Wasserstein distance by exact assignment to as many points of the data."""
        points = rows["points"].cpu()
        if self._data is None:  # under `predict`, which compares with nothing
            return {}
        if len(self._data) < len(points):
            raise ValueError(f"w1 of {len(points)} samples needs as many data, there are {len(self._data)}")
        costs = torch.cdist(points, self._data[: len(points)].to(points))
        chosen = linear_sum_assignment(costs.numpy())
        return {"w1": float(costs.numpy()[chosen].mean())}

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """The samples of every arm over the data, and the field of the time-linked score."""
        if self.sample_shape != (2,) or self._data is None:
            return {}
        data = self._data[:1000]
        pictures = {"arms": figure_pixels(scatter_2d({n: r.samples.numpy() for n, r in results.items()}, data.numpy()))}
        if predictor is not None:
            pictures["time_linked_score"] = figure_pixels(_score_field(predictor, data))
        return pictures


def _score_field(predictor: nn.Module, data: Tensor) -> Any:
    """The time-linked score at the cleanest timestep, around the data."""
    device = next(predictor.parameters()).device
    side = torch.linspace(-1.6, 1.6, _FIELD_POINTS) * data.abs().max()
    grid = torch.cartesian_prod(side, side).to(device)
    score = TemporalAlignment(predictor).time_linked_score(grid, 0)
    # Lengths differ by orders of magnitude; the direction is what one looks for.
    shown = score / score.norm(dim=1, keepdim=True).clamp(min=1e-12) * score.norm(dim=1, keepdim=True).clamp(max=1)
    return quiver_2d(grid.cpu().numpy(), shown.cpu().numpy(), data.numpy())
