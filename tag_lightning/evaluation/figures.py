"""Pictures of a run, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from tag_lightning.evaluation.metric_labels import metric_label
from tag_lightning.files import replacing
from tag_lightning.metrics import to_uint8

Points: TypeAlias = Tensor | np.ndarray
"""Points in the plane, ``[N, 2]``."""

# Okabe and Ito's palette, which colour-blind readers can distinguish, with a line and a marker each for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DATA_COLOUR = "#B0B0B0"
SMALLEST_CELL = 48
MOST_SIDE_BY_SIDE = 4
MOST_INSIDE = 10  # names in a legend inside the axes
MOST_BELOW = 24  # names in one column of a legend beside them


class FrontierLine(NamedTuple):
    """One curve of a frontier.

    Attributes:
        x: Alignment of its points, in order, ``[K]``.
        y: Their cost, above 0, ``[K]``.
        low: Lower edge of the band, ``[K]``.
        high: Upper edge, ``[K]``.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def sample_grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Images side by side, row by row, small ones enlarged to at least 48 pixels without smoothing.

    Args:
        images: ``[B, C, H, W]`` in [-1, 1], C 1 or 3, B at least 1; values outside are clipped.
        columns: Images per row; None makes the grid about square.

    Returns:
        Bytes ``[3, H', W']`` on the CPU.

    Raises:
        ValueError: If the shape is another, or a value is NaN or infinite.
    """
    if images.ndim != 4 or len(images) < 1 or images.shape[1] not in (1, 3):
        raise ValueError(f"a grid needs images [B, 1 or 3, H, W] with B at least 1, got {list(images.shape)}")
    factor = max(1, math.ceil(SMALLEST_CELL / min(images.shape[2:])))
    pixels = to_uint8(images.detach()).cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return make_grid(pixels, nrow=columns or math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)


def save_png(picture: Tensor | Figure, path: Path) -> None:
    """Write bytes ``[3, H, W]`` or a figure as a PNG file."""
    pixels = picture if isinstance(picture, Tensor) else figure_pixels(picture)
    with replacing(path) as temporary:
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(temporary, format="PNG")


def figure_pixels(figure: Figure) -> Tensor:
    """The figure as bytes ``[3, H, W]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def time_gap_curves(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Time-Gap against the timestep at which it was measured, one line per name.

    Args:
        curves: ``(timesteps [S], gaps [S])`` of each line, both in training timesteps; NaN is left out.
            Gaps that span more than a factor of 20 get a logarithmic axis above 1, linear below.
    """
    beside = math.ceil(len(curves) / MOST_BELOW) if len(curves) > MOST_INSIDE else 0
    figure, axes = _figure(6.4 + 2.6 * beside, 5.6 if beside else 4.0)
    largest, smallest = 0.0, math.inf
    for index, (name, (timesteps, gaps)) in enumerate(curves.items()):
        x, y = np.asarray(timesteps, float), np.asarray(gaps, float)
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        order = np.argsort(x, kind="stable")
        axes.plot(
            x[order],
            y[order],
            markersize=4,
            linewidth=1.8,
            label=name,
            **line_style(index) | ({} if len(x) <= 60 else {"marker": None}),
        )
        if len(y):
            largest, smallest = max(largest, y.max()), min(smallest, y.min())
    if largest > 20 * max(smallest, 1):
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("training timestep (0 is clean data)")
    axes.set_ylabel(metric_label("time_gap"))
    axes.grid(alpha=0.3)
    if beside:
        figure.legend(frameon=False, handlelength=3.5, fontsize="small", ncols=beside, loc="outside right center")
    elif curves:
        axes.legend(frameon=False, handlelength=3.5)
    return figure


def scatter_2d(samples: Mapping[str, Points], data: Points) -> Figure:
    """Samples in the plane, one panel per name, over the data in grey, all on the same axes.

    Args:
        samples: Points ``[N, 2]`` of each panel, at least one.
        data: Points ``[M, 2]`` of the data.

    Raises:
        ValueError: If ``samples`` is empty, or points do not have the shape ``[N, 2]``.
    """
    if not samples:
        raise ValueError("scatter_2d needs at least one set of samples")
    points = {name: _plane(values, name) for name, values in samples.items()}
    ground = _plane(data, "data")
    figure = Figure(figsize=(3.4 * len(points), 3.7), dpi=120, layout=_margins())
    panels = figure.subplots(1, len(points), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, values), colour in zip(panels, points.items(), cycle(COLOURS), strict=False):
        axes.scatter(ground[:, 0], ground[:, 1], s=6, color=DATA_COLOUR, linewidths=0, label="data")
        axes.scatter(values[:, 0], values[:, 1], s=6, color=colour, alpha=0.6, linewidths=0, label="samples")
        axes.set_title(name)
        axes.set_aspect("equal")
        axes.set_xlabel("$x_1$")
    panels[0].legend(frameon=False, markerscale=2.5, loc="upper left")
    panels[0].set_ylabel("$x_2$")
    return figure


def quiver_2d(points: Points, vectors: Points, background: Points | None = None) -> Figure:
    """A vector field in the plane, such as the time-linked score; colour is length, arrows show direction.

    Args:
        points: Where, ``[N, 2]``.
        vectors: The field there, ``[N, 2]``.
        background: Points ``[M, 2]`` drawn in grey beneath.

    Raises:
        ValueError: If the shapes differ or are not ``[N, 2]``.
    """
    where, field = _plane(points, "points"), _plane(vectors, "vectors")
    if where.shape != field.shape:
        raise ValueError(f"points and vectors must have the same shape, got {where.shape} and {field.shape}")
    figure, axes = _figure(5.6, 4.8)
    if background is not None:
        behind = _plane(background, "background")
        axes.scatter(behind[:, 0], behind[:, 1], s=6, color=DATA_COLOUR, linewidths=0, label="data")
        axes.legend(frameon=False, markerscale=2.5, loc="lower right", bbox_to_anchor=(1, 1))
    lengths = np.linalg.norm(field, axis=1)
    directions = field / np.maximum(lengths, np.finfo(float).tiny)[:, None]
    arrows = axes.quiver(
        where[:, 0], where[:, 1], directions[:, 0], directions[:, 1], lengths, cmap="viridis", pivot="mid", width=0.004
    )
    figure.colorbar(arrows, ax=axes, label="length")
    axes.set_aspect("equal")
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$")
    return figure


def comparison_strip(grids: Mapping[str, Tensor]) -> Figure:
    """Grids of samples side by side under their names, at most four a row, comparable one by one where arms are paired.

    Args:
        grids: Bytes ``[3, H, W]`` of each arm, as ``sample_grid`` returns them; at least one.

    Raises:
        ValueError: If there is none.
    """
    if not grids:
        raise ValueError("comparison_strip needs at least one grid")
    rows = math.ceil(len(grids) / MOST_SIDE_BY_SIDE)
    columns = math.ceil(len(grids) / rows)
    aspect = max(grid.shape[2] / grid.shape[1] for grid in grids.values())
    height = min(4.0, 6.0 / aspect)  # inches; a single row of wide spectrograms would dwarf the names
    figure = Figure(figsize=((height * aspect + 0.2) * columns, (height + 0.4) * rows), dpi=120, layout=_margins())
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, grid) in zip(panels, grids.items(), strict=False):
        axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(name, wrap=True)
    return figure


def frontier_curves(lines: Mapping[str, FrontierLine], x_label: str, y_label: str, lower_x_is_better: bool) -> Figure:
    """Cost on a logarithmic axis against alignment, one line per name; the better, the lower and the further right.

    Args:
        lines: By name; one of a single point is a marker alone.
        x_label: The metric of alignment.
        y_label: The cost.
        lower_x_is_better: Turn the axis of alignment round, as for an error.
    """
    figure, axes = _figure(8.0, 4.6)
    for index, (name, line) in enumerate(lines.items()):
        look = line_style(index) | ({} if len(line.x) > 1 else {"linestyle": "none"})
        axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.18, linewidth=0)
        axes.plot(line.x, line.y, markersize=5, linewidth=1.6, label=name, **look)
    make_logarithmic(axes)
    if lower_x_is_better:
        axes.invert_xaxis()
    axes.set_xlabel(f"{x_label} (better to the right)")
    axes.set_ylabel(f"{y_label} (better below)")
    axes.grid(alpha=0.3, which="both")
    if lines:
        axes.legend(frameon=False, handlelength=3.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the curve with this index; the first 49 differ, even as markers without a line."""
    turn, place = divmod(index, len(COLOURS))
    marker = MARKERS[(place + turn) % len(MARKERS)]
    return {"color": COLOURS[place], "marker": marker, "linestyle": LINES[index % len(LINES)]}


def make_logarithmic(axes: Axes) -> None:
    """Make the vertical axis of a finished plot logarithmic, with a few plain numbers beside it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(7) if high < 10 * low else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=120, layout=_margins())
    return figure, figure.subplots()


def _margins() -> ConstrainedLayoutEngine:
    # The default margin cuts the ascenders of titles.
    return ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)


def _plane(points: Points, name: str) -> np.ndarray:
    array = points.detach().cpu().numpy() if isinstance(points, Tensor) else np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} must be points of shape [N, 2], got {list(array.shape)}")
    return array.astype(float)
