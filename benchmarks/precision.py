"""Reverse steps in float32 and bfloat16, eager and compiled.

    python -m benchmarks.precision --out runs/precision.json

The published UNet for CIFAR-10 and ``SimpleCNN``, with random weights: a plain step, one of DPS, one of DPS and TAG.
Networks compute as in the arms of a comparison (``Acceleration``): guide and time predictor stay in float32. Rounds
take turns. A step's time is given in milliseconds and as a multiple of the plain one in the same precision, with the
share of it that the denoiser's own passes take. Compiled networks are compiled in a round that does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.speed import published_unet
from benchmarks.timing import interleaved, seconds_of
from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, LinearSchedule, Sampler
from tag_lightning.evaluation.acceleration import Acceleration, Precision
from tag_lightning.files import replacing
from tag_lightning.guidance import DPS, Condition, Guidance, TemporalAlignment
from tag_lightning.networks import ImageClassifier, SimpleCNN

MODES: dict[str, tuple[Precision, bool]] = {
    "float32": ("32-true", False),
    "bfloat16": ("bf16-mixed", False),
    "compiled float32": ("32-true", True),
    "compiled bfloat16": ("bf16-mixed", True),
}
"""Precision, and whether networks are compiled, by name."""
_STEPS = 4


def jobs(device: torch.device, modes: list[str], batch: int, quick: bool) -> dict[str, Callable[[], float]]:
    """The time of every kind of step in every mode, and of the passes of the denoiser alone, by name."""
    unet = UNet2DModel(**published_unet(quick)).eval().requires_grad_(False).to(device)
    predictor = SimpleCNN().eval().requires_grad_(False).to(device)
    guide = ImageClassifier().eval().requires_grad_(False).to(device)
    space, target = ImageSpace((3, 32, 32), range(batch), device), torch.arange(batch, device=device) % 10
    tag, dps = TemporalAlignment(predictor, strength=0.1), DPS(Condition(guide, target))
    arms: dict[str, list[Guidance]] = {"plain": [], "dps": [dps], "dps+tag": [tag, dps]}
    denoiser = Denoiser(unet, LinearSchedule(), "epsilon").to(device)
    x = torch.randn(batch, 3, 32, 32, device=device)
    timed: dict[str, Callable[[], object]] = {
        name: partial(Sampler(denoiser, DDIM(), _STEPS, guidance).sample, space, 0) for name, guidance in arms.items()
    }
    timed["forward"] = partial(_passes, denoiser, x, False)
    timed["forward and backward"] = partial(_passes, denoiser, x, True)
    found: dict[str, Callable[[], float]] = {}
    for mode in modes:
        acceleration = Acceleration(*MODES[mode], device)
        for name, job in timed.items():
            accelerated = partial(_accelerated, acceleration, [unet], [predictor, guide], job)
            found[f"{mode}, {name}"] = seconds_of(accelerated, device)
    return found


def _accelerated(
    acceleration: Acceleration, denoisers: list[nn.Module], others: list[nn.Module], job: Callable[[], object]
) -> None:
    with acceleration.active(denoisers, others):
        job()


def _passes(denoiser: Denoiser, x: Tensor, backward: bool) -> None:
    for _ in range(_STEPS):
        x = x.detach().requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            x0 = denoiser(x, 500).x0
        if backward:
            torch.autograd.grad(x0.sum(), x)


def figures(seconds: dict[str, list[float]], modes: list[str]) -> list[dict[str, Any]]:
    """One row per mode and kind of step: medians over the rounds, and ratios of the same round."""
    rows = []
    for mode in modes:
        for name in ("plain", "dps", "dps+tag"):
            taken, plain = seconds[f"{mode}, {name}"], seconds[f"{mode}, plain"]
            own = seconds[f"{mode}, forward" if name == "plain" else f"{mode}, forward and backward"]
            row = {
                "mode": mode,
                "step": name,
                "milliseconds": 1000 * statistics.median(taken) / _STEPS,
                "over_plain": statistics.median(a / b for a, b in zip(taken, plain, strict=True)),
                "denoiser_share": statistics.median(a / b for a, b in zip(own, taken, strict=True)),
            }
            if (reference := seconds.get(f"float32, {name}")) is not None:
                row["over_float32"] = statistics.median(a / b for a, b in zip(taken, reference, strict=True))
            rows.append(row)
    return rows


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    parser.add_argument("--quick", action="store_true", help="a small network, only to see that it runs")
    arguments = parser.parse_args(args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured = jobs(device, arguments.modes, arguments.batch, arguments.quick)
    rows = figures(interleaved(measured, arguments.repeats, "steps"), arguments.modes)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    drawn = Table(title=f"{name}, batch {arguments.batch}, torch {torch.__version__}", title_justify="left")
    for column in ("mode", "step", "ms", "over plain", "denoiser's share", "over float32"):
        drawn.add_column(column)
    for row in rows:
        shown = (f"{row[key]:.2f}" for key in ("milliseconds", "over_plain", "denoiser_share"))
        drawn.add_row(row["mode"], row["step"], *shown, f"{row['over_float32']:.2f}" if "over_float32" in row else "")
    Console(width=100).print(drawn)
    if arguments.out is not None:
        content = {"device": name, "batch": arguments.batch, "torch": torch.__version__, "rows": rows}
        with replacing(arguments.out) as temporary:
            temporary.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
