"""How far TAG should move a sample: ``python -m benchmarks.move_lengths digits/time_predictor digits``.

Validation images get too much noise, TAG moves them, and the denoiser's estimate of the clean image is compared with
it. So the cap of ``PolyakStrength`` can be learnt without drawing a sample.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.data_statistics import validation_images
from tag_lightning.diffusion import Denoiser, ImageSpace, Prediction, Step
from tag_lightning.evaluation.networks import load_denoiser
from tag_lightning.guidance import PolyakStrength, TemporalAlignment
from tag_lightning.pretrained import load_pretrained

Errors: TypeAlias = Mapping[tuple[int, float], list[float]]


def measured(
    predictor: nn.Module,
    denoiser: Denoiser,
    x0: Tensor,
    timesteps: Sequence[int],
    ratios: Sequence[float],
    caps: Sequence[float],
    seed: int = 0,
) -> Errors:
    """Mean squared error of the denoised image by timestep and noise ratio, relative to that without TAG, by cap.

    Args:
        predictor: Time predictor with a measured ``typical_nll``.
        denoiser: Its schedule is that of the noise.
        x0: Clean images ``[B, C, H, W]`` in [-1, 1].
        timesteps: Training timesteps.
        ratios: Noise in the image over the noise that its timestep should have.
        caps: Longest moves, as fractions of the noise.
        seed: Seed of the noise.
    """
    space = ImageSpace(x0.shape[1:], range(len(x0)))
    source, powers = space.noise_source(seed), denoiser.schedule.alphas_cumprod

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        return denoiser(x, timestep, **inputs)

    def error(x: Tensor, timestep: int) -> float:
        with torch.no_grad():
            return float((space.clip(predict(x, timestep).x0) - x0).square().mean())

    found = {}
    for t in timesteps:
        power = float(powers[t])
        step = Step(0, t, None, power, 1.0, len(powers), [(power, 1.0)], space, source, alphas_cumprod=powers)
        noise = space.noise(source)
        for ratio in ratios:
            x = denoiser.schedule.add_noise(x0, ratio * noise, t)
            moved = [TemporalAlignment(predictor, PolyakStrength(cap)).correct(x, step, predict) for cap in caps]
            alone = error(x, t)
            found[t, ratio] = [error(other, t) / alone for other in moved]
    return found


def learnt_caps(errors: Errors, caps: Sequence[float]) -> dict[int, float]:
    """The cap with the least error by timestep: the geometric mean over the ratios."""
    logs: dict[int, list[list[float]]] = {}
    for (timestep, _), row in errors.items():
        logs.setdefault(timestep, []).append([math.log(value) for value in row])
    means = {timestep: [sum(column) for column in zip(*rows, strict=True)] for timestep, rows in logs.items()}
    return {timestep: caps[row.index(min(row))] for timestep, row in means.items()}


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.move_lengths", description=__doc__)
    parser.add_argument("config", help="configuration whose validation images to take: a path or a shipped one's name")
    parser.add_argument("kind", help="folder of the networks denoiser and time_predictor, such as digits")
    parser.add_argument("--count", type=int, default=256, help="number of images, evenly spaced")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[39, 119, 199, 279, 399, 519, 759])
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.0, 1.15, 1.4, 2.0])
    parser.add_argument("--caps", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 1.0])
    chosen = parser.parse_args(args)
    images = validation_images(chosen.config, chosen.count)
    denoiser = load_denoiser(f"{chosen.kind}/denoiser", images)
    predictor = load_pretrained(f"{chosen.kind}/time_predictor").network
    errors = measured(predictor, denoiser, images.x, chosen.timesteps, chosen.ratios, chosen.caps)
    best = learnt_caps(errors, chosen.caps)
    title = f"Error of {len(images.x)} denoised images over that without TAG, by the cap"
    printed = Table("t", "noise", *map(str, chosen.caps), "best", title=title)
    for column in printed.columns:
        column.no_wrap = True
    for (timestep, ratio), row in errors.items():
        last = f"{best[timestep]}" if ratio == chosen.ratios[0] else ""
        printed.add_row(str(timestep), f"x {ratio:g}", *(f"{value:.3f}" for value in row), last)
    Console().print(printed)


if __name__ == "__main__":
    main()
