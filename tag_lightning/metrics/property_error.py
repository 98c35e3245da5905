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
    Predictions that are NaN or infinite are left out; ``nan`` of ``MoleculeQuality`` counts such molecules.
    ``reference`` is the judge's error on those molecules of the test split that have the property.
    """

    @property
    def columns(self) -> dict[str, int]:
        return {} if self.task.judge is None else {"judged": len(self.task.judge.properties)}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        mask, encoding = self.task.mask(indices).to(x.device), self.task.encoding
        return {"judged": self.task.judge(encoding.encode(*encoding.decode(x, mask)), mask)}

    def prepare(self, device: torch.device) -> None:
        judge, table = self.task.judge, self.task.data.table("test")
        total = torch.zeros(len(judge.properties))
        known = torch.stack([table.attributes[name] for name in judge.properties], 1).isfinite().sum(0)
        for rows in torch.arange(len(table)).split(_BATCH):
            batch = table[rows.tolist()]
            with torch.no_grad():
                judged = judge(batch.x.to(device), batch.inputs["mask"].to(device)).cpu()
            labels = torch.stack([batch.attributes[name] for name in judge.properties], 1)
            total += torch.where(labels.isfinite(), judged - labels, 0).abs().sum(0)
        self.reference = {f"mae_{name}": float(total[k] / known[k]) for k, name in enumerate(judge.properties)}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        judged, names = rows["judged"], self.task.judge.properties
        errors = (judged - self.task.targets(range(len(judged)), names)).abs()
        return {f"mae_{name}": float(e[e.isfinite()].mean()) for name, e in zip(names, errors.T, strict=True)}
