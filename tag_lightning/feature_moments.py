"""Mean and covariance of the features of real data, small enough for a file in place of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor


class FeatureMoments(NamedTuple):
    """What a Frechet distance needs of real data.

    Attributes:
        num_samples: Number of feature rows, at least 2.
        mean: ``[D]`` float64.
        covariance: ``[D, D]`` float64; divided by ``num_samples - 1``.
    """

    num_samples: int
    mean: Tensor
    covariance: Tensor

    def packed(self) -> dict[str, Tensor]:
        """Tensors for a file: the mean, the upper triangle of the covariance in float32, and the number."""
        rows, columns = torch.triu_indices(len(self.mean), len(self.mean))
        return {
            "mean": self.mean.double().cpu(),
            "covariance": self.covariance[rows, columns].float().cpu(),
            "num_samples": torch.tensor(self.num_samples),
        }

    @classmethod
    def unpacked(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The moments that ``packed`` made these tensors of; the covariance is rounded to float32.

        Raises:
            KeyError: If a tensor is missing.
        """
        mean = tensors["mean"]
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        rows, columns = torch.triu_indices(len(mean), len(mean))
        covariance[rows, columns] = tensors["covariance"].double()
        covariance[columns, rows] = tensors["covariance"].double()
        return cls(int(tensors["num_samples"]), mean, covariance)
