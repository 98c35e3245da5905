"""Draw error against stability over guidance strengths: ``python -m benchmarks.curve summary.json curve.png``.

Reads what ``benchmarks.seeds`` writes; arms are named ``<property> <scale>``, with ``+tag`` for those with TAG.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tag_lightning.evaluation.figures import COLOURS, figure_pixels, save_png
from tag_lightning.evaluation.results import REAL_DATA

Summary = Mapping[str, Mapping[str, Sequence[float]]]
_ARM = re.compile(r"(?P<property>\w+) (?P<scale>[\d.]+)(?P<tag>\+tag)?")
_JUDGES = {"mae_": "judge network", "xtb_mae_": "GFN2-xTB, calibrated"}


def curves(arms: Summary) -> dict[tuple[str, bool], list[tuple[float, str]]]:
    """The arms of each property, without and with TAG, as ``(scale, arm)`` in the order of the scale."""
    found: dict[tuple[str, bool], list[tuple[float, str]]] = {}
    for arm in arms:
        if match := _ARM.fullmatch(arm):
            key = match["property"], match["tag"] is not None
            found.setdefault(key, []).append((float(match["scale"]), arm))
    return {key: sorted(points) for key, points in found.items()}


def draw(arms: Summary) -> Figure:
    """One panel a judge: error against atom stability, mean and standard deviation over the seeds.

    The dotted line is the judge's own error on real molecules. Arms of which nothing could be judged are left out.

    Args:
        arms: By arm and metric, mean and standard deviation.

    Raises:
        ValueError: If no arm is named after a property and a scale, or none has an error.
    """
    lines = curves(arms)
    judges = [
        prefix
        for prefix in _JUDGES
        if any(f"{prefix}{name}" in arms[arm] for (name, _), points in lines.items() for _, arm in points)
    ]
    if not judges:
        raise ValueError("no arm is named '<property> <scale>' and has an error to show; see benchmarks.seeds")
    figure = Figure(figsize=(5.2 * len(judges), 4.0), dpi=120, layout="constrained")
    for axes, prefix in zip(figure.subplots(1, len(judges), squeeze=False)[0], judges, strict=True):
        for colour, ((name, tag), points) in zip(COLOURS, lines.items(), strict=False):
            # An arm of which nothing could be judged has no error.
            points = [(scale, arm) for scale, arm in points if f"{prefix}{name}" in arms[arm]]
            stability = [arms[arm]["atom_stability"] for _, arm in points]
            error = [arms[arm][f"{prefix}{name}"] for _, arm in points]
            x, dx = zip(*((100 * mean, 100 * spread) for mean, spread in stability), strict=True)
            y, dy = zip(*error, strict=True)
            style = "s--" if tag else "o-"
            label = f"DPS on {name}{' + TAG' if tag else ''}"
            axes.errorbar(x, y, dy, dx, fmt=style, color=colour, capsize=2, linewidth=1.6, label=label)
            for (scale, _), left, top in zip(points, x, y, strict=True):
                axes.annotate(f"{scale:g}", (left, top), xytext=(4, 4), textcoords="offset points", fontsize=8)
        for name, _ in lines:
            if floor := arms.get(REAL_DATA, {}).get(f"{prefix}{name}"):
                axes.axhline(floor[0], color="#808080", linestyle=":", linewidth=1)
        axes.set_title(_JUDGES[prefix])
        axes.set_yscale("log")  # what broke is off by orders of magnitude
        axes.set_xlabel("atom stability [%]")
        axes.set_ylabel("MAE to the target, in the property's unit")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("summary", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args(args)
    try:
        save_png(
            figure_pixels(draw(json.loads(arguments.summary.read_text(encoding="utf-8"))["arms"])), arguments.picture
        )
    except (OSError, ValueError, KeyError) as error:
        print(f"error: cannot draw {arguments.summary}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
