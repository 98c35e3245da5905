"""Pictures of sweeps: figures against the value of the swept parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tag_lightning.evaluation.figures import line_style, make_logarithmic
from tag_lightning.evaluation.metric_labels import metric_label

_PANEL_WIDTH, _PANEL_HEIGHT = 4.2, 3.8


class SweepLine(NamedTuple):
    """One curve over a parameter.

    Attributes:
        values: Values of the parameter, in order, ``[K]``; empty for an arm outside of sweeps.
        figures: By metric, ``[K, S]`` for S seeds; ``[1, S]`` for an arm outside of sweeps.
    """

    values: np.ndarray
    figures: Mapping[str, np.ndarray]


def sweep_figure(lines: Mapping[str, SweepLine], parameter: str, metrics: Sequence[str]) -> Figure:
    """One panel per metric: means over seeds, and bands from the lowest to the highest.

    Arms outside of sweeps are horizontal lines. Distances, and parameters that span more than a factor of ten, have a
    logarithmic axis.

    Args:
        lines: By name of the curve.
        parameter: Name of the parameter.
        metrics: The metrics to show, at least one.
    """
    figure = Figure(figsize=(_PANEL_WIDTH * len(metrics), _PANEL_HEIGHT), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for index, (name, line) in enumerate(lines.items()):
            if metric not in line.figures:
                continue
            points, look = line.figures[metric], line_style(index)
            if not len(line.values):
                axes.axhline(points.mean(), color=look["color"], linestyle=":", linewidth=1.2, label=name)
                continue
            axes.fill_between(line.values, points.min(1), points.max(1), color=look["color"], alpha=0.18, linewidth=0)
            axes.plot(line.values, points.mean(1), markersize=5, linewidth=1.6, label=name, **look)
        values = np.concatenate([line.values for line in lines.values()])
        if values.min() > 0 and values.max() > 10 * values.min():
            axes.set_xscale("log")
            axes.set_xticks(np.unique(values), [f"{value:g}" for value in np.unique(values)])
            axes.minorticks_off()
        if metric == "fid":
            make_logarithmic(axes)
        axes.set(xlabel=parameter, ylabel=metric_label(metric))
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize="small")
    return figure
