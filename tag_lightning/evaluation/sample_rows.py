"""Measurements of every sample that a frontier resamples, in a file beside the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.files import replacing
from tag_lightning.metrics import FID
from tag_lightning.metrics.frechet import resampled_distances

_FEATURES, _MEAN, _COVARIANCE = "features", "/mean", "/covariance"


@dataclass
class SampleRows:
    """Rows by arm, in the order of the samples' global indices.

    Attributes:
        terms: Numerators and denominators ``[2, N]`` by figure, by arm, see ``SampleMetric.terms``.
        features: Features ``[N, D]`` float32 of the Frechet distance ``fid``, by arm; empty without one.
        moments: Mean ``[D]`` and covariance ``[D, D]`` of the real features; None without them.
    """

    terms: dict[str, dict[str, Tensor]]
    features: dict[str, Tensor]
    moments: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, results: Mapping[str, ArmResult], task: SamplingTask) -> Self:
        """The rows of results, as far as the task's metrics offer them."""
        distance = next((metric for metric in task.metrics if isinstance(metric, FID) and metric.name == "fid"), None)
        terms: dict[str, dict[str, Tensor]] = {}
        for arm, result in results.items():
            pairs = [(figure, pair) for metric in task.metrics for figure, pair in metric.terms(result.rows).items()]
            terms[arm] = {figure: torch.stack(pair).double() for figure, pair in pairs}
        if distance is None:
            return cls(terms, {}, None)
        column = distance.column
        features = {arm: result.rows[column].float() for arm, result in results.items() if column in result.rows}
        return cls(terms, features, distance.real_moments)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The rows in a file that ``write`` made."""
        terms: dict[str, dict[str, Tensor]] = {}
        features: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        with np.load(path) as arrays:
            for key, array in arrays.items():
                arm, _, figure = key.rpartition("/")
                if not arm:
                    moments[key] = torch.from_numpy(array)
                elif figure == _FEATURES:
                    features[arm] = torch.from_numpy(array)
                else:
                    terms.setdefault(arm, {})[figure] = torch.from_numpy(array)
        return cls(terms, features, (moments[_MEAN], moments[_COVARIANCE]) if moments else None)

    def write(self, path: Path) -> None:
        """Write an ``.npz`` file: ``<arm>/<figure>``, ``<arm>/features``, real data's ``/mean`` and ``/covariance``."""
        arrays = {f"{arm}/{figure}": pair for arm, terms in self.terms.items() for figure, pair in terms.items()}
        arrays |= {f"{arm}/{_FEATURES}": rows for arm, rows in self.features.items()}
        if self.moments is not None:
            arrays |= dict(zip((_MEAN, _COVARIANCE), self.moments, strict=True))
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{name: array.cpu().numpy() for name, array in arrays.items()})  # type: ignore[arg-type]

    def resampled(self, arm: str, figure: str, counts: Tensor) -> np.ndarray | None:
        """A figure of resamples of an arm's samples.

        Args:
            arm: Name of the arm.
            figure: ``fid``, or a figure with terms.
            counts: Number of times that each resample has each sample, ``[R, N]``.

        Returns:
            ``[R]``, or None for an arm without rows.
        """
        if figure == "fid" and arm in self.features and self.moments is not None:
            return resampled_distances(self.features[arm], counts, *self.moments).numpy()
        if figure not in self.terms.get(arm, {}):
            return None
        above, below = (counts.double() @ self.terms[arm][figure].T).T
        return (above / below).numpy()
