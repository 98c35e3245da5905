"""Distance of the properties of generated molecules from their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tag_lightning.metrics.sample_metric import SampleMetric

_BATCH = 256


class PropertyError(SampleMetric):
    """Mean absolute error ``mae_<property>`` of the properties that the judge predicts, in their units.

    The judge sees discrete molecules, which is what a user gets: decided elements, not continuous features.
    Predictions that are NaN or infinite are left out; ``nan`` of ``MoleculeQuality`` counts such molecules. A property
    asked to lie in a range has ``within_<property>`` instead, the share in [0, 1] of molecules inside it.
    ``reference`` is the judge's error on those molecules of the test split that have the property, and the share of
    these inside a range.
    """

    @property
    def columns(self) -> dict[str, int]:
        return {} if self.task.judge is None else {"judged": len(self.task.judge.properties)}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        mask, encoding = self.task.mask(indices).to(x.device), self.task.encoding
        return {"judged": self.task.judge(encoding.encode(*encoding.decode(x, mask)), mask)}

    def prepare(self, device: torch.device) -> None:
        judge, table = self.task.judge, self.task.data.table("test")
        total, within = torch.zeros(len(judge.properties)), dict.fromkeys(self.task.ranges, 0)
        known = torch.stack([table.attributes[name] for name in judge.properties], 1).isfinite().sum(0)
        for rows in torch.arange(len(table)).split(_BATCH):
            batch = table[rows.tolist()]
            with torch.no_grad():
                judged = judge(batch.x.to(device), batch.inputs["mask"].to(device)).cpu()
            labels = torch.stack([batch.attributes[name] for name in judge.properties], 1)
            total += torch.where(labels.isfinite(), judged - labels, 0).abs().sum(0)
            for name, asked in self.task.ranges.items():
                within[name] += int((asked.distance(batch.attributes[name]) == 0).sum())
        self.reference = {
            f"within_{name}" if name in within else f"mae_{name}": float(within.get(name, total[k]) / known[k])
            for k, name in enumerate(judge.properties)
        }

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(errors.sum() / count.sum()) for name, (errors, count) in self.terms(rows).items()}

    def terms(self, rows: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        judged, names = rows["judged"], self.task.judge.properties
        targets = self.task.targets(range(len(judged)), names)
        terms = {}
        for name, values, asked in zip(names, judged.T, targets.T, strict=True):
            known = values.isfinite()
            if name in self.task.ranges:
                counted = (self.task.ranges[name].distance(values) == 0).to(values)
            else:
                counted = (values - asked).abs()
            key = f"within_{name}" if name in self.task.ranges else f"mae_{name}"
            terms[key] = (counted.where(known, 0), known.to(values))
        return terms
