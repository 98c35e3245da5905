"""Quantum chemistry as a judge that no gradient has touched: GFN2-xTB on the geometry as it was generated."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from tag_lightning.chemistry import XTB_PROPERTIES, xtb_many

_FORCE = "max_force"
_LEAST_CALIBRATION = 10


class PhysicsJudge:
    """Recomputes properties of molecules by GFN2-xTB (Bannwarth et al. 2019).

    Labels of another method differ from xTB's by a trend; a straight line a property, fitted to real molecules
    that nothing was trained on, takes it out.

    Args:
        properties: What the molecules are asked for; those that xTB knows are judged.
        workers: Processes; None is one for each core.

    Raises:
        ImportError: If tblite is missing; names the remedy.
    """

    def __init__(self, properties: Sequence[str], workers: int | None = None) -> None:
        self.properties = tuple(properties)
        self.judged = tuple(name for name in self.properties if name in XTB_PROPERTIES)
        self.workers = workers or os.cpu_count() or 1
        self.lines = dict.fromkeys(self.judged, (1.0, 0.0))
        xtb_many([], 1, (*self.judged, _FORCE))  # tells of a missing tblite before hours of work

    @property
    def width(self) -> int:
        """Columns of ``measure``."""
        return len(self.judged) + 1

    def measure(self, numbers: Tensor, positions: Tensor) -> Tensor:
        """The judged properties and the largest force (hartree/bohr), ``[B, width]`` float64.

        NaN where the calculation did not converge, or a position is not finite.

        Args:
            numbers: Atomic numbers ``[B, N]``, 0 where there is no atom.
            positions: Angstrom, ``[B, N, 3]``.
        """
        rows = torch.full((len(numbers), self.width), torch.nan, dtype=torch.float64)
        finite = [i for i in range(len(numbers)) if bool(positions[i][numbers[i] > 0].isfinite().all())]
        molecules = [(numbers[i][numbers[i] > 0].numpy(), positions[i][numbers[i] > 0].numpy()) for i in finite]
        what = (*self.judged, _FORCE)
        for i, found in zip(finite, xtb_many(molecules, self.workers, what, progress=False), strict=True):
            if found is not None:
                rows[i] = torch.tensor([found[name] for name in what], dtype=torch.float64)
        return rows

    def calibrate(self, rows: Tensor, labels: Tensor) -> None:
        """Fit the line of every property, from ``measure`` of real molecules to their labels.

        Args:
            rows: As ``measure`` returns them, ``[B, width]``.
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
                    f"{_LEAST_CALIBRATION}. Check the labels, or switch sampling.physics off"
                )
            design = torch.stack((x[good], torch.ones_like(x[good])), 1)
            slope, offset = torch.linalg.lstsq(design, y[good, None]).solution[:, 0].tolist()
            self.lines[name] = (slope, offset)

    def summarize(self, rows: Tensor, targets: Tensor) -> dict[str, float]:
        """``xtb_mae_<property>`` in the data's units, ``xtb_converged`` in [0, 1], mean ``xtb_max_force``.

        Args:
            rows: As ``measure`` returns them, ``[B, width]``.
            targets: What was asked for, ``[B, K]`` in the order of ``properties``. Means are over the molecules
                that converged.
        """
        good = rows.isfinite().all(1)
        figures = {}
        for k, name in enumerate(self.judged):
            slope, offset = self.lines[name]
            error = slope * rows[good, k] + offset - targets[good, self.properties.index(name)]
            figures[f"xtb_mae_{name}"] = float(error.abs().mean())
        return figures | {"xtb_converged": float(good.double().mean()), "xtb_max_force": float(rows[good, -1].mean())}
