"""Inception Score of generated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.metrics.sample_metric import SampleMetric
from tag_lightning.pretrained import load_pretrained


class InceptionScore(SampleMetric):
    """``exp(mean_i KL(p(y | x_i) | p(y)))`` of a classifier's probabilities (Salimans et al. 2016, arXiv 1606.03498).

    Between 1 and the number of classes: high for samples of certain and evenly spread classes. The logits are those
    of the task's judge or of another classifier, never Inception's, so the figure is named after the classifier:
    ``inception_score_judge``. All samples form one split, so that their order does not matter; the published code
    averages over ten, which gives slightly lower figures.

    Args:
        classifier: ``judge``, or the name of another classifier (a shipped one, a folder, a checkpoint).
    """

    _network: nn.Module | None = None

    def __init__(self, classifier: str = "judge") -> None:
        self.classifier = classifier

    def for_task(self, task: Any) -> Self:
        bound = super().for_task(task)
        bound._network = task.judge if self.classifier == "judge" else load_pretrained(self.classifier).network
        known = getattr(bound._network, "num_classes", None)
        if bound._network is not None and known is None:
            raise ValueError(
                f"InceptionScore needs a classifier, but {self.classifier} is a {type(bound._network).__name__} "
                "without num_classes; name another"
            )
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {} if self._network is None else {f"logits_{self.classifier}": int(self._network.num_classes)}  # type: ignore[arg-type]

    @property
    def networks(self) -> list[nn.Module]:
        return [] if self._network is None else [self._network]

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        assert self._network is not None  # a metric without columns is left out
        return {f"logits_{self.classifier}": self._network(x)}

    @property
    def streamed(self) -> list[str]:  # type: ignore[override]
        return list(self.columns)

    def totals(self, rows: Mapping[str, Tensor], indices: Sequence[int]) -> dict[str, Tensor]:
        """Probabilities of the classes, summed over samples, and the sum of ``p log p`` over samples and classes."""
        (column,) = self.columns
        p = rows[column].double().softmax(1)
        return {f"{column}/p": p.sum(0), f"{column}/p_log_p": torch.special.xlogy(p, p).sum()}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``inception_score_<classifier>``.

        Args:
            rows: The ``totals`` of all samples; their rows do as well.
        """
        (column,) = self.columns
        if f"{column}/p" not in rows:
            rows = self.totals(rows, range(len(rows[column])))
        count, p = rows[f"{column}/p"].sum(), rows[f"{column}/p"] / rows[f"{column}/p"].sum()
        divergence = rows[f"{column}/p_log_p"] / count - torch.special.xlogy(p, p).sum()
        return {f"inception_score_{self.classifier}": float(divergence.exp())}
