"""Frechet distance between two sets of feature rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tag_lightning.metrics.feature_metric import FeatureMetric
from tag_lightning.metrics.features import FeatureChoice

# Weighted copies of the features that are held at once, in numbers.
_MOST_ENTRIES = 2**23


class FID(FeatureMetric):
    """Frechet distance ``fid`` of samples to the training data (Heusel et al. 2017), see ``FrechetDistance``.

    Args:
        features: See ``FeatureMetric``.
        name: Name of the figure, to tell several distances apart.
        asked_classes_only: Compare with the training images of the classes that the task asks for, instead of all.

    Raises:
        ValueError: If ``asked_classes_only`` is set for a task that asks for no classes.
    """

    _distance: FrechetDistance

    def __init__(self, features: FeatureChoice = "auto", name: str = "fid", asked_classes_only: bool = False) -> None:
        super().__init__(features, "features" if name == "fid" else f"features_{name}")
        self.name = name
        self.asked_classes_only = asked_classes_only

    def for_task(self, task: Any) -> Self:
        if self.asked_classes_only and not hasattr(task, "asked"):
            raise ValueError(
                f"metrics: {self.name} is of the classes asked for, but {type(task).__name__} asks for none"
            )
        bound = super().for_task(task)
        if bound._extractor is not None:
            bound._distance = FrechetDistance(bound._extractor.num_features)
        return bound

    @property
    def features_name(self) -> str | None:
        """Name of the feature extractor; distances of different extractors must not be compared."""
        return None if self._extractor is None else self._extractor.name

    @property
    def real_moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``[D]`` and covariance ``[D, D]`` of the real features, see ``FrechetDistance``."""
        return self._distance.real_moments

    def add_real(self, batch: Any, device: torch.device) -> None:
        features = self.real_features(batch, device)
        if self.asked_classes_only:
            features = features[self.task.asked(batch.attributes)]
        if len(features):
            self._distance.update(features, real=True)

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``fid``, or the distance of another name; nothing without real data, as under ``predict``."""
        if not self._distance.counts["real"]:
            return {}
        self._distance.reset(keep_real=True)
        self._distance.update(rows[self.column], real=False)
        return {self.name: float(self._distance.compute())}


class _Identity(nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistance:
    """Squared 2-Wasserstein distance of the Gaussians fitted to real and generated features (Heusel et al. 2017).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``, at least 0, in squared feature units; covariances divide
    by ``n - 1``. Computed in float64 by torchmetrics. The value is biased upwards for few samples: compare
    only values of the same features and the same number of samples.

    Nothing is synchronised: under DDP give every process all rows, as ``RowsByIndex`` returns them.

    Args:
        num_features: D.

    Raises:
        ValueError: If ``num_features`` is below 1.
    """

    def __init__(self, num_features: int) -> None:
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        self.num_features = num_features
        self._engine = FrechetInceptionDistance(_Identity(num_features), sync_on_compute=False)

    @property
    def counts(self) -> dict[str, int]:
        """Number of ``real`` and ``generated`` rows so far."""
        engine = self._engine
        return {"real": int(engine.real_features_num_samples), "generated": int(engine.fake_features_num_samples)}

    @property
    def real_moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``[D]`` and covariance ``[D, D]`` of the real rows so far, float64; at least 2 of them."""
        engine, count = self._engine, self.counts["real"]
        mean = engine.real_features_sum / count
        return mean, (engine.real_features_cov_sum - count * torch.outer(mean, mean)) / (count - 1)

    def update(self, features: Tensor, real: bool) -> None:
        """Add feature rows ``[n, D]`` of real or of generated samples.

        Raises:
            ValueError: If the shape is another, or a value is NaN or infinite.
        """
        kind = "real" if real else "generated"
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(
                f"features of {kind} samples must have shape [n, {self.num_features}], got {list(features.shape)}"
            )
        features = features.detach().double()
        bad = int((~torch.isfinite(features).all(dim=1)).sum())
        if bad:
            raise ValueError(
                f"features of {bad} of {len(features)} {kind} samples are NaN or infinite; "
                "check that the samples are finite and in the range the feature extractor expects"
            )
        self._engine.to(features.device).update(features, real=real)

    def compute(self) -> Tensor:
        """The distance of all rows given so far, a float64 scalar.

        Raises:
            ValueError: If fewer than 2 rows of either kind were given; a covariance needs 2.
        """
        counts = self.counts
        if min(counts.values()) < 2:
            raise ValueError(
                "a Frechet distance needs at least 2 real and 2 generated samples, got "
                f"{counts['real']} real and {counts['generated']} generated; "
                "raise the number of samples (a useful estimate needs more samples than features)"
            )
        return self._engine.compute().clamp(min=0)

    def reset(self, keep_real: bool = False) -> None:
        """Forget all rows, or those of generated samples alone."""
        self._engine.reset_real_features = not keep_real
        self._engine.reset()


def resampled_distances(features: Tensor, counts: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Frechet distances of resamples of one set of rows to real data, see ``FrechetDistance``.

    Much faster than one ``FrechetDistance`` each: the eigenvalues of ``C1 C2`` are those of the symmetric
    ``C1^(1/2) C2 C1^(1/2)``, or of a matrix over the rows where these are fewer than the features.

    Args:
        features: Rows of generated samples, ``[n, D]``.
        counts: Number of times that each resample has each row, ``[R, n]``, each resample at least 2 rows in all.
        mean: Mean of the real rows, ``[D]``.
        covariance: Their covariance, ``[D, D]``.

    Returns:
        ``[R]`` float64, at least 0.
    """
    features, counts, mean, covariance = (part.double() for part in (features, counts, mean, covariance))
    levels, axes = torch.linalg.eigh(covariance)
    root = axes * levels.clamp(min=0).sqrt()
    parts = counts.split(max(1, _MOST_ENTRIES // features.numel()))
    return torch.cat([_resampled(features, part, mean, root, levels.sum()) for part in parts]).clamp(min=0)


def _resampled(features: Tensor, counts: Tensor, mean: Tensor, root: Tensor, trace: Tensor) -> Tensor:
    totals = counts.sum(1, keepdim=True)
    shares = counts / (totals - 1)
    own_means = counts @ features / totals
    mapped, mapped_means = features @ root, own_means @ root
    if features.shape[1] <= len(features):
        excess = totals[:, :, None] / (totals[:, :, None] - 1)
        squares = torch.einsum("rn,nd,ne->rde", shares, mapped, mapped)
        gram = squares - excess * mapped_means[:, :, None] * mapped_means[:, None, :]
    else:
        gram = torch.stack([_row_gram(mapped - m, s) for m, s in zip(mapped_means, shares, strict=True)])
    cross = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum(1)
    squared = features.square().sum(1)
    own_traces = shares @ squared - (totals / (totals - 1)).squeeze(1) * own_means.square().sum(1)
    return (own_means - mean).square().sum(1) + own_traces + trace - 2 * cross


def _row_gram(centred: Tensor, shares: Tensor) -> Tensor:
    weighted = centred * shares.sqrt()[:, None]
    return weighted @ weighted.T
