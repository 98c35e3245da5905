"""Distance of the properties of generated molecules from their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn

from tag_lightning.content_digest import weights_key
from tag_lightning.metrics.error_details import error_details, error_names
from tag_lightning.metrics.molecule_quality import stable_molecules
from tag_lightning.metrics.sample_metric import SampleMetric

_BATCH = 256


class PropertyError(SampleMetric):
    """Mean absolute error ``mae_<property>`` of the properties that the judge predicts, in their units.

    The judge sees discrete molecules, which is what a user gets: decided elements, not continuous features.
    Predictions that are NaN or infinite are left out; ``nan`` of ``MoleculeQuality`` counts such molecules. A property
    asked to lie in a range has ``within_<property>`` instead, the share in [0, 1] of molecules inside it.
    ``reference`` is the judge's error on those molecules of the test split that have the property, and the share of
    these inside a range.

    Args:
        details: Also give ``median_<property>``, and ``stable_mae_<property>`` over the stable molecules alone.
        judge: A judge of its own, such as a ``MEGNetJudge``; None takes that of the task. Where the data are
            statistics alone, a judge of its own has no reference.
        prefix: Prefix of all names, to tell the figures of several judges apart.

    Raises:
        ValueError: If there is a judge without a prefix; when bound to a task, if the guide and judge of the task know
            nothing of one of its properties.
    """

    def __init__(self, details: bool = False, judge: nn.Module | None = None, prefix: str = "") -> None:
        if judge is not None and not prefix:
            raise ValueError("a judge of its own needs a prefix for its figures, such as megnet_")
        self.details, self.own, self.prefix = details, judge, prefix

    def for_task(self, task: Any) -> Self:
        """As ``SampleMetric.for_task``.

        Raises:
            ValueError: If the judge predicts a property that nothing else in the task does.
        """
        missing = [name for name in getattr(self.own, "properties", ()) if name not in task.properties]
        if missing:
            raise ValueError(
                f"the judge {type(self.own).__name__} predicts {missing[0]!r}, which the molecules are not asked for; "
                f"they are asked for {', '.join(task.properties)}"
            )
        return super().for_task(task)

    @property
    def judge(self) -> Any:
        """The network that judges; None without one."""
        return self.task.judge if self.own is None else self.own

    @property
    def column(self) -> str:
        """Name of the predictions among the rows."""
        return f"{self.prefix}judged"

    @property
    def networks(self) -> list[nn.Module]:
        return [] if self.own is None else [self.own]

    @property
    def columns(self) -> dict[str, int]:
        return {} if self.judge is None else {self.column: len(self.judge.properties)}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        mask, encoding = self.task.mask(indices).to(x.device), self.task.encoding
        return {self.column: self.judge(encoding.encode(*encoding.decode(x, mask)), mask)}

    def prepare(self, device: torch.device) -> None:
        judge, table = self.judge, self.task.data.table("test")
        errors, stable, within = [], [], dict.fromkeys(self.task.ranges, 0)
        known = torch.stack([table.attributes[name] for name in judge.properties], 1).isfinite().sum(0)
        for rows in torch.arange(len(table)).split(_BATCH):
            batch = table[rows.tolist()]
            with torch.no_grad():
                judged = judge(batch.x.to(device), batch.inputs["mask"].to(device)).cpu()
            labels = torch.stack([batch.attributes[name] for name in judge.properties], 1)
            errors.append((judged - labels).abs())
            if self.details:
                stable.append(stable_molecules(*self.task.encoding.decode(batch.x, batch.inputs["mask"])))
            for name, asked in self.task.ranges.items():
                within[name] += int((asked.distance(batch.attributes[name]) == 0).sum())
        self.reference = {}
        for k, (name, column) in enumerate(zip(judge.properties, torch.cat(errors).T, strict=True)):
            if name in within:
                self.reference[f"{self.prefix}within_{name}"] = float(within[name] / known[k])
                continue
            self.reference[f"{self.prefix}mae_{name}"] = float(column.nanmean())
            if self.details:
                self.reference |= error_details(column, torch.cat(stable), name, self.prefix)

    def reference_state(self) -> dict[str, Any]:
        return super().reference_state() | {"judge": weights_key(self.judge)}

    def load_reference_state(self, state: Mapping[str, Any]) -> None:
        """Restore the errors on real data; a warning and no errors if another judge than the task's made them."""
        if self.own is not None:
            return
        if state["judge"] != weights_key(self.judge):
            rank_zero_warn("The data keep the errors of another judge on real molecules: real data have none here.")
            return
        shown = error_names(set(self.judge.properties) - set(self.task.ranges), self.details, self.prefix)
        self.reference = {name: value for name, value in state["reference"].items() if name in shown}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        figures = {name: float(errors.sum() / count.sum()) for name, (errors, count) in self.terms(rows).items()}
        return figures | self._details(rows) if self.details else figures

    def _details(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        judged, names = rows[self.column], self.judge.properties
        errors = (judged - self.task.targets(range(len(judged)), names)).abs()
        stable = stable_molecules(*self.task.decoded(rows))
        columns = {name: errors[:, k] for k, name in enumerate(names) if name not in self.task.ranges}
        details = [error_details(column, stable, name, self.prefix) for name, column in columns.items()]
        return {key: value for figures in details for key, value in figures.items()}

    def terms(self, rows: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        judged, names = rows[self.column], self.judge.properties
        targets = self.task.targets(range(len(judged)), names)
        terms = {}
        for name, values, asked in zip(names, judged.T, targets.T, strict=True):
            known = values.isfinite()
            if name in self.task.ranges:
                counted = (self.task.ranges[name].distance(values) == 0).to(values)
            else:
                counted = (values - asked).abs()
            kind = "within" if name in self.task.ranges else "mae"
            terms[f"{self.prefix}{kind}_{name}"] = (counted.where(known, 0), known.to(values))
        return terms
