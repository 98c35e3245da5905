"""Frechet distance between two sets of feature rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


class _AsTheyAre(nn.Module):
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
        self._engine = FrechetInceptionDistance(_AsTheyAre(num_features), sync_on_compute=False)
        self._counts = {"real": 0, "generated": 0}

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
        self._counts[kind] += len(features)

    def compute(self) -> Tensor:
        """The distance of all rows given so far, a float64 scalar.

        Raises:
            ValueError: If fewer than 2 rows of either kind were given; a covariance needs 2.
        """
        if min(self._counts.values()) < 2:
            raise ValueError(
                "a Frechet distance needs at least 2 real and 2 generated samples, got "
                f"{self._counts['real']} real and {self._counts['generated']} generated; "
                "raise the number of samples (a useful estimate needs more samples than features)"
            )
        return self._engine.compute().clamp(min=0)

    def reset(self, keep_real: bool = False) -> None:
        """Forget all rows, or those of generated samples alone."""
        self._engine.reset_real_features = not keep_real
        self._engine.reset()
        self._counts = {"real": self._counts["real"] if keep_real else 0, "generated": 0}
