"""Quantum chemistry as a judge that no gradient has touched: GFN2-xTB on the generated geometry."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from tag_lightning.chemistry import XTB_PROPERTIES, xtb_many
from tag_lightning.metrics.error_details import error_details, error_names
from tag_lightning.metrics.molecule_quality import stable_molecules
from tag_lightning.metrics.sample_metric import SampleMetric

_FORCE = "max_force"
_LEAST_CALIBRATION = 10
_CALIBRATION = 150


class PhysicsError(SampleMetric):
    """Error of the properties asked for by GFN2-xTB (Bannwarth et al. 2019): ``xtb_mae_<property>`` and others.

    Labels of another method differ from xTB's by a trend. A straight line per property, fitted to molecules of the
    validation split, removes it. A property asked to lie in a range has ``xtb_within_<property>`` instead, the share in
    [0, 1] of molecules inside it. ``reference`` is the error that remains on molecules of the test split, and the share
    of them inside a range, by xTB as for samples.

    Args:
        workers: Processes; None starts one per core.
        details: Also give ``xtb_median_<property>``, and ``xtb_stable_mae_<property>`` over the stable molecules alone.

    Attributes:
        properties: Properties asked for.
        judged: Those that xTB computes.
        lines: Slope and offset from xTB's value to the label, for each of them.
    """

    properties: tuple[str, ...]
    judged: tuple[str, ...]
    lines: dict[str, tuple[float, float]]

    def __init__(self, workers: int | None = None, details: bool = False) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.details = details

    def for_task(self, task: Any) -> Self:
        """Bind to the task's ``properties``, of which those that xTB computes are judged.

        Raises:
            ImportError: If tblite is missing; names the remedy.
        """
        bound = super().for_task(task)
        bound.properties = tuple(task.properties)
        bound.judged = tuple(name for name in bound.properties if name in XTB_PROPERTIES)
        bound.lines = dict.fromkeys(bound.judged, (1.0, 0.0))
        xtb_many([], 1, (*bound.judged, _FORCE))  # reports a missing tblite before hours of work
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {"physics": len(self.judged) + 1}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"physics": self.measure(*self.task.encoding.decode(x.cpu(), self.task.mask(indices)))}

    def prepare(self, device: torch.device) -> None:
        """Calibrate, and measure the error that remains on other real molecules."""
        measured, labels, _ = self._measured_real("val")
        self.calibrate(measured, labels)
        measured, labels, stable = self._measured_real("test")
        self.reference = self._in_ranges(self.errors(measured, labels, stable), measured)

    def reference_state(self) -> dict[str, Any]:
        return super().reference_state() | {"lines": {name: list(line) for name, line in self.lines.items()}}

    def load_reference_state(self, state: Mapping[str, Any]) -> None:
        """Restore the calibration, and the error that remains on real molecules.

        Raises:
            ValueError: If a property was not calibrated.
        """
        missing = [name for name in self.judged if name not in state["lines"]]
        if missing:
            raise ValueError(f"the data keep no calibration of xTB's {missing[0]}; set physics to false")
        self.lines = {name: tuple(state["lines"][name]) for name in self.judged}
        judged = set(self.judged) - set(self.task.ranges)
        shown = error_names(judged, self.details, "xtb_") | {"xtb_converged", "xtb_max_force"}
        self.reference = {name: value for name, value in state["reference"].items() if name in shown}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """As ``errors``; a property asked to lie in a range has ``xtb_within_<property>``, a share, instead."""
        measured = rows["physics"]
        stable = stable_molecules(*self.task.decoded(rows)) if self.details else None
        return self._in_ranges(self.errors(measured, self.task.targets(range(len(measured))), stable), measured)

    def _in_ranges(self, figures: dict[str, float], measured: Tensor) -> dict[str, float]:
        """``figures`` with the share inside, in place of the errors, for properties asked to lie in a range."""
        good = measured.isfinite().all(1)
        for name in self.task.ranges.keys() & set(self.judged):
            slope, offset = self.lines[name]
            values = slope * measured[good, self.judged.index(name)] + offset
            for key in ("xtb_mae_", "xtb_median_", "xtb_stable_mae_"):
                figures.pop(f"{key}{name}", None)
            figures[f"xtb_within_{name}"] = float((self.task.ranges[name].distance(values) == 0).double().mean())
        return figures

    def measure(self, numbers: Tensor, positions: Tensor) -> Tensor:
        """The judged properties and the largest force (hartree/bohr), ``[B, K + 1]`` float64.

        NaN where the calculation did not converge, or a position is not finite.

        Args:
            numbers: Atomic numbers ``[B, N]``, 0 is padding.
            positions: Angstrom, ``[B, N, 3]``.
        """
        rows = torch.full((len(numbers), len(self.judged) + 1), torch.nan, dtype=torch.float64)
        finite = [i for i in range(len(numbers)) if bool(positions[i][numbers[i] > 0].isfinite().all())]
        molecules = [(numbers[i][numbers[i] > 0].numpy(), positions[i][numbers[i] > 0].numpy()) for i in finite]
        quantities = (*self.judged, _FORCE)
        for i, found in zip(finite, xtb_many(molecules, self.workers, quantities, progress=False), strict=True):
            if found is not None:
                rows[i] = torch.tensor([found[name] for name in quantities], dtype=torch.float64)
        return rows

    def calibrate(self, rows: Tensor, labels: Tensor) -> None:
        """Fit the line of each property, from ``measure`` of real molecules to their labels.

        Args:
            rows: As ``measure`` returns them, ``[B, K + 1]``.
            labels: ``[B, K]`` in the order of ``properties``.

        Raises:
            ValueError: If fewer than 10 calculations converged.
        """
        for k, name in enumerate(self.judged):
            x, y = rows[:, k], labels[:, self.properties.index(name)].double()
            good = x.isfinite() & y.isfinite()
            if int(good.sum()) < _LEAST_CALIBRATION:
                raise ValueError(
                    f"xTB gave {name} for {int(good.sum())} of {len(x)} real molecules; calibrating it needs at least "
                    f"{_LEAST_CALIBRATION}. Check the labels, or set physics to false"
                )
            design = torch.stack((x[good], torch.ones_like(x[good])), 1)
            slope, offset = torch.linalg.lstsq(design, y[good, None]).solution[:, 0].tolist()
            self.lines[name] = (slope, offset)

    def errors(self, rows: Tensor, targets: Tensor, stable: Tensor | None = None) -> dict[str, float]:
        """``xtb_mae_<property>`` in the data's units, ``xtb_converged`` in [0, 1], mean ``xtb_max_force``.

        Args:
            rows: As ``measure`` returns them, ``[B, K + 1]``.
            targets: Properties asked for, ``[B, K]`` in the order of ``properties``.
            stable: True at stable molecules, ``[B]``; needed for ``details``.

        Returns:
            Means over the molecules that converged.
        """
        good = rows.isfinite().all(1)
        figures = {}
        for k, name in enumerate(self.judged):
            slope, offset = self.lines[name]
            error = slope * rows[good, k] + offset - targets[good, self.properties.index(name)]
            figures[f"xtb_mae_{name}"] = float(error.abs().nanmean())  # real molecules may lack a label
            if self.details and stable is not None:
                figures |= error_details(error.abs(), stable[good], name, "xtb_")
        return figures | {"xtb_converged": float(good.double().mean()), "xtb_max_force": float(rows[good, -1].mean())}

    def _measured_real(self, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Some real molecules as ``measure`` sees them, their labels ``[B, K]``, and which are stable, ``[B]``."""
        table = self.task.data.table(split)
        # A random choice, since the first molecules are the smallest in a source that is sorted by size.
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
        batch = table[order[:_CALIBRATION].tolist()]
        labels = [batch.attributes[name] for name in self.properties]
        molecules = self.task.encoding.decode(batch.x, batch.inputs["mask"])
        measured = self.measure(*molecules)
        stacked = torch.stack(labels, 1) if labels else torch.zeros(len(measured), 0)
        return measured, stacked, stable_molecules(*molecules)
