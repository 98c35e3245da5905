"""The mean reward of generated samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.metrics.sample_metric import SampleMetric

_REAL_SAMPLES = 1024


class MeanReward(SampleMetric):
    """Mean ``reward`` of the samples, such as that of ``RewardWeightedModule``; the reference is real held-out data.

    Args:
        network: Maps clean samples ``[B, ...]`` to rewards ``[B]``.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    @property
    def columns(self) -> dict[str, int]:
        return {"reward": 1}

    @property
    def networks(self) -> list[nn.Module]:
        return [self.network]

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"reward": self.network(x)[:, None]}

    def prepare(self, device: torch.device) -> None:
        table: Any = self.task.data.table("test")
        real = table[list(range(min(len(table), _REAL_SAMPLES)))].x.to(device)
        with torch.no_grad():
            self.reference = self.summary(self.rows(real, range(len(real))))

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {"reward": float(rows["reward"].mean())}

    def terms(self, rows: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        rewards = rows["reward"].flatten()
        return {"reward": (rewards, torch.ones_like(rewards))}
