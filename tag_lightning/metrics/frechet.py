"""Frechet distance between two sets of feature rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tag_lightning.content_digest import weights_key
from tag_lightning.feature_moments import FeatureMoments
from tag_lightning.metrics.feature_metric import FeatureMetric
from tag_lightning.metrics.features import FeatureChoice

# Weighted copies of the features that are held at once, in numbers.
_MOST_ENTRIES = 2**23


class FeatureSums(NamedTuple):
    """Sums over feature rows, from which mean and covariance follow. Those of two sets of rows add up to those of both.

    Attributes:
        counts: Number of rows, and how many of them are left out as NaN or infinite, ``[2]``.
        total: Sum of the rows, float64 ``[D]``.
        outer: Sum of their outer products, float64 ``[D, D]``.
    """

    counts: Tensor
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """The sums over rows ``[n, D]``, of which n may be 0."""
        features = features.detach().double()
        finite = features.isfinite().all(1)
        kept = features[finite]
        return cls(torch.tensor([len(features), len(features) - len(kept)]).to(features), kept.sum(0), kept.T @ kept)

    @classmethod
    def of_moments(cls, moments: FeatureMoments) -> Self:
        """The sums over the rows that have these moments."""
        count, mean, covariance = moments
        outer = (count - 1) * covariance + count * torch.outer(mean, mean)
        return cls(torch.tensor([count, 0]).to(mean), count * mean, outer)


class FID(FeatureMetric):
    """Frechet distance ``fid`` of samples to the training data (Heusel et al. 2017), see ``FrechetDistance``.

    ``reference`` is the distance of as many test samples, evenly spaced. It is left out with ``asked_classes_only`` and
    where there are fewer, since the distance depends on their number.

    Args:
        features: See ``FeatureMetric``.
        name: Name of the figure, to tell several distances apart.
        asked_classes_only: Compare with the training images of the classes that the task asks for, instead of all.
        first: Number of samples, counted from the first, that it is computed of; None takes all. A Frechet distance
            falls with their number. With fewer samples the figure is left out.

    Raises:
        ValueError: If ``asked_classes_only`` is set for a task that asks for no classes, or ``first`` is below 2.
    """

    _distance: FrechetDistance

    def __init__(
        self,
        features: FeatureChoice = "auto",
        name: str = "fid",
        asked_classes_only: bool = False,
        first: int | None = None,
    ) -> None:
        super().__init__(features, "features" if name == "fid" else f"features_{name}")
        self.name = name
        self.asked_classes_only = asked_classes_only
        if first is not None and first < 2:
            raise ValueError(f"metrics: {name} needs at least 2 samples, got first {first}")
        self.first = first

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

    def prepare(self, device: torch.device) -> None:
        table: Any = self.task.data.table("test")
        count = self.first or self.task.num_samples
        if self.asked_classes_only or not 2 <= count <= len(table):
            return
        sums: dict[str, Tensor] = {}
        for places in torch.linspace(0, len(table) - 1, count).round().long().split(self.task.data.batch_size):
            x = table[places.tolist()].x.to(device)
            with torch.no_grad():
                rows = {name: row.cpu() for name, row in self.rows(x, range(len(x))).items()}
            for name, total in self.totals(rows, range(len(x))).items():
                sums[name] = sums[name] + total if name in sums else total
        self.reference = self.summary(sums)

    def reference_state(self) -> dict[str, Any]:
        """Mean and covariance of the features of the real images, and a digest of the network that computed them.

        The ``reference`` is not part of it, since it holds for one number of samples alone.
        """
        moments = FeatureMoments(self._distance.counts["real"], *self.real_moments)
        return super().reference_state() | {"reference": {}} | self._measured_by() | moments.packed()

    def load_reference_state(self, state: Mapping[str, Any]) -> None:
        """Restore the moments.

        Raises:
            ValueError: If they are those of other features.
        """
        super().load_reference_state(state)
        if any(state[name] != value for name, value in self._measured_by().items()):
            raise ValueError(
                f"{self.name} compares features of {self.features_name}, but the data keep moments of those of "
                f"{state['features']}, or of other weights; choose that judge or those features"
            )
        self._distance.reset()
        self._distance.update_sums(FeatureSums.of_moments(FeatureMoments.unpacked(state)), real=True)

    def _measured_by(self) -> dict[str, Any]:
        return {
            "features": self.features_name,
            "weights": [weights_key(network) for network in self.networks],
            "asked_classes_only": self.asked_classes_only,
        }

    def add_real(self, batch: Any, device: torch.device) -> None:
        features = self.real_features(batch, device)
        if self.asked_classes_only:
            features = features[self.task.asked(batch.attributes)]
        if len(features):
            self._distance.update(features, real=True)

    @property
    def streamed(self) -> list[str]:  # type: ignore[override]
        return [self.column]

    def totals(self, rows: Mapping[str, Tensor], indices: Sequence[int]) -> dict[str, Tensor]:
        """The ``FeatureSums`` of these samples, as far as they are among the ``first``."""
        features = rows[self.column]
        if self.first is not None:
            features = features[[place for place, index in enumerate(indices) if index < self.first]]
        sums = self._distance.sums(features, real=False)
        return {f"{self.column}/{name}": value for name, value in sums._asdict().items()}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``fid``, or the distance of another name; nothing without real data, as under ``predict``.

        Args:
            rows: The ``totals`` of all samples; their rows do as well.
        """
        names = [f"{self.column}/{name}" for name in FeatureSums._fields]
        if names[0] not in rows:
            rows = self.totals(rows, range(len(rows[self.column])))
        sums = FeatureSums(*(rows[name] for name in names))
        if not self._distance.counts["real"] or int(sums.counts[0]) < (self.first or 0):
            return {}
        self._distance.reset(keep_real=True)
        self._distance.update_sums(sums, real=False)
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

    Nothing is synchronised: under DDP give every process all rows, or the sums over all of them.

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
        self.update_sums(self.sums(features, real), real)

    def sums(self, features: Tensor, real: bool) -> FeatureSums:
        """The sums over feature rows ``[n, D]``, of which n may be 0; they are not added.

        Raises:
            ValueError: If the shape is another.
        """
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(
                f"features of {'real' if real else 'generated'} samples must have shape [n, {self.num_features}], got "
                f"{list(features.shape)}"
            )
        return FeatureSums.of(features)

    def update_sums(self, sums: FeatureSums, real: bool) -> None:
        """Add the sums over feature rows of real or of generated samples.

        Raises:
            ValueError: If a row was NaN or infinite.
        """
        count, bad = (int(number) for number in sums.counts)
        if bad:
            raise ValueError(
                f"features of {bad} of {count} {'real' if real else 'generated'} samples are NaN or infinite; "
                "check that the samples are finite and in the range the feature extractor expects"
            )
        # No rows: torchmetrics takes note of dtype and device.
        self._engine.to(sums.total.device).update(sums.total.new_zeros(0, self.num_features), real=real)
        for name, value in {"sum": sums.total, "cov_sum": sums.outer, "num_samples": count}.items():
            state = f"{'real' if real else 'fake'}_features_{name}"
            setattr(self._engine, state, getattr(self._engine, state) + value)

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
