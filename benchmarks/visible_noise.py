"""How well the noise level of a sample can be seen at all, by dimension: ``python -m benchmarks.visible_noise``.

The data are Gaussian with unit variance in an eighth of the dimensions and 0 in the others, so that the posterior over
timesteps is known in closed form: no time predictor tells more. Data of unit variance in all dimensions would hide the
timestep entirely, since their noisy samples have the same distribution at every one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tag_lightning.diffusion import LinearSchedule
from tag_lightning.files import replacing
from tag_lightning.metrics import time_gap

_SHARE = 8  # one dimension in so many holds data


def log_posterior(inside: Tensor, outside: Tensor, dimension: int, alphas_cumprod: Tensor) -> Tensor:
    """``log p(t | x)`` under a uniform prior over timesteps, ``[B, T]``.

    Args:
        inside: Squared length ``[B]`` of noisy samples within the dimensions of the data.
        outside: That in the others, ``[B]``.
        dimension: Number of all dimensions d.
        alphas_cumprod: ``[T]``, float64.
    """
    within = dimension // _SHARE
    total = torch.ones_like(alphas_cumprod)  # variance inside: a + (1 - a)
    noise = 1 - alphas_cumprod
    log_density = -(within * total.log() + inside[:, None] / total) / 2
    log_density = log_density - ((dimension - within) * noise.log() + outside[:, None] / noise) / 2
    return log_density.log_softmax(1)


def measured(dimension: int, timesteps: Sequence[int], count: int) -> dict[str, float]:
    """The error of ``log sigma`` at each timestep, one standard deviation, and the Time-Gap over all.

    Args:
        dimension: Number of dimensions, at least 8.
        timesteps: Where to measure the error of the posterior mean of ``log sqrt(1 - alphas_cumprod)``.
        count: Samples per timestep.
    """
    alphas_cumprod = LinearSchedule().alphas_cumprod.double()
    generator = torch.Generator().manual_seed(dimension)
    log_sigma = 0.5 * (1 - alphas_cumprod).log()
    outside = dimension - dimension // _SHARE

    def squared_length(size: int, number: int) -> Tensor:
        return torch.randn(number, size, generator=generator).double().square().sum(1)

    def posterior(drawn: Tensor) -> Tensor:
        inside = squared_length(dimension - outside, len(drawn))
        noise = squared_length(outside, len(drawn)) * (1 - alphas_cumprod[drawn])
        return log_posterior(inside, noise, dimension, alphas_cumprod)

    figures = {"bound": 1 / math.sqrt(2 * outside)}
    for timestep in timesteps:
        probabilities = posterior(torch.full((count,), timestep)).exp()
        figures[f"t = {timestep}"] = float((probabilities @ log_sigma - log_sigma[timestep]).square().mean().sqrt())
    drawn = torch.randint(len(alphas_cumprod), (4 * count,), generator=generator)
    figures["time_gap"] = float(time_gap(posterior(drawn), drawn).double().mean())
    return figures


def curves(figures: dict[int, dict[str, float]]) -> Figure:
    """The error of the noise level and the Time-Gap over the dimension."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    errors, gaps = figure.subplots(1, 2)
    dimensions = list(figures)
    for name in (name for name in figures[dimensions[0]] if name != "time_gap"):
        style = "k:" if name == "bound" else "-o"
        label = "1 / sqrt(2 d'), d' without data" if name == "bound" else name
        errors.loglog(dimensions, [figures[d][name] for d in dimensions], style, label=label, markersize=3)
    errors.set(xlabel="dimension d", ylabel="error of log noise level")
    errors.legend(fontsize="small")
    gaps.semilogx(dimensions, [figures[d]["time_gap"] for d in dimensions], "-o", markersize=3)
    gaps.set(xlabel="dimension d", ylabel="Time-Gap of the exact posterior")
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and, on demand, save it and its picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.visible_noise", description=__doc__)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[8, 32, 128, 512, 2048, 8192])
    parser.add_argument("--timesteps", type=int, nargs="+", default=[30, 100, 300, 600, 900])
    parser.add_argument("--count", type=int, default=1000, help="samples per timestep")
    parser.add_argument("--out", type=Path, help="folder of visible_noise.json and visible_noise.png")
    chosen = parser.parse_args(args)
    if min(chosen.dimensions) < _SHARE:
        parser.error(f"--dimensions must be at least {_SHARE}, got {min(chosen.dimensions)}")
    figures = {dimension: measured(dimension, chosen.timesteps, chosen.count) for dimension in chosen.dimensions}
    names = list(next(iter(figures.values())))
    table = Table("d", *names, title="Error of log sigma of the exact posterior, and its Time-Gap")
    for dimension, row in figures.items():
        table.add_row(
            str(dimension), *(f"{row[name]:.1f}" if name == "time_gap" else f"{row[name]:.3f}" for name in names)
        )
    Console().print(table)
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        with replacing(chosen.out / "visible_noise.json") as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        with replacing(chosen.out / "visible_noise.png") as temporary:
            curves(figures).savefig(temporary, format="png", dpi=100)


if __name__ == "__main__":
    main()
