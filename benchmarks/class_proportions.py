"""Whether guided samples are nearer to the data only because their classes come in the right proportions.

    python -m benchmarks.class_proportions --seeds 0 1 2

Guidance asks for every class equally often; an unguided sampler draws them as it likes. So unguided digits are drawn in
excess, the judge tells their classes, and as many of each class are kept as guidance asks for: the first ones drawn.
Their Frechet distance, and those of guided and of plain unguided digits, are of the same number of samples, in the
judge's features, in those of a classifier of the hue if ``--hue`` names one, and in pixels.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tag_lightning import DPS
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import DDIM
from tag_lightning.evaluation import Arm, ImageTask, compare
from tag_lightning.guidance import FixedLengthSteps
from tag_lightning.metrics import FrechetDistance, JudgeFeatures, PixelFeatures
from tag_lightning.pretrained import load_pretrained

_BATCH = 128


def evenly(labels: Tensor, per_class: int, num_classes: int) -> Tensor:
    """The places of the first ``per_class`` samples of every class, in order.

    Raises:
        ValueError: If a class has fewer; names it.
    """
    chosen = []
    for label in range(num_classes):
        places = (labels == label).nonzero()[:per_class, 0]
        if len(places) < per_class:
            raise ValueError(f"class {label} was drawn {len(places)} times, {per_class} are needed; raise --excess")
        chosen.append(places)
    return torch.cat(chosen).sort().values


def drawn(seed: int, per_class: int, excess: int) -> dict[str, Tensor]:
    """Digits ``[n, C, H, W]`` of every kind for one seed, all of the same number."""
    task = partial(ImageTask, guide="digits/guide", judge="digits/judge")
    count = 10 * per_class
    arms = {"unguided": Arm(), "dps": Arm([DPS(scale=0.25)]), "fixed length": Arm([FixedLengthSteps(DPS())])}
    shared = {"num_steps": 25, "solver": DDIM(0.0), "seed": seed}
    guided = compare(
        {name: arm for name, arm in arms.items() if name != "unguided"},
        *("digits/denoiser", task().for_data(DigitsDataModule())),
        num_samples=count,
        num_kept=count,
        **shared,
    )
    plain = compare(
        {"unguided": arms["unguided"]},
        *("digits/denoiser", task().for_data(DigitsDataModule())),
        num_samples=excess * count,
        num_kept=excess * count,
        **shared,
    )
    unguided = plain.arms["unguided"].samples
    judge = load_pretrained("digits/judge").network
    with torch.no_grad():
        labels = torch.cat([judge(part).argmax(1) for part in unguided.split(_BATCH)])
    found = {"unguided": unguided[:count], "unguided, classes evened": unguided[evenly(labels, per_class, 10)]}
    return found | {name: result.samples for name, result in guided.arms.items()}


def distances(samples: Mapping[str, Tensor], hue: str | None) -> dict[str, dict[str, float]]:
    """Frechet distances to the training digits, by kind of sample and features."""
    data = DigitsDataModule()
    extractors = {"judge": JudgeFeatures(load_pretrained("digits/judge").network)}
    if hue is not None:
        extractors["hue"] = JudgeFeatures(load_pretrained(hue).network)
    extractors["pixels"] = PixelFeatures(data.sample_shape)
    found: dict[str, dict[str, float]] = {name: {} for name in samples}
    for features, extract in extractors.items():
        distance = FrechetDistance(extract.num_features)
        data.setup("validate")
        for batch in data.reference_dataloader():
            distance.update(extract(batch.x), real=True)
        for name, images in samples.items():
            distance.reset(keep_real=True)
            for part in images.split(_BATCH):
                distance.update(extract(part), real=False)
            found[name][features] = float(distance.compute())
    return found


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--per-class", type=int, default=25)
    parser.add_argument("--excess", type=int, default=4, help="unguided samples drawn for each that is kept")
    parser.add_argument("--hue", help="a classifier of the hue, by name or path (configs/digits/hue_judge.yaml)")
    arguments = parser.parse_args(args)
    runs = [distances(drawn(seed, arguments.per_class, arguments.excess), arguments.hue) for seed in arguments.seeds]
    table = Table(title=f"{10 * arguments.per_class} digits each, seeds {arguments.seeds}")
    table.add_column("samples")
    for features in next(iter(runs[0].values())):
        table.add_column(f"FID, {features}", justify="right")
    for name, by_features in runs[0].items():
        cells = []
        for features in by_features:
            values = [run[name][features] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        table.add_row(name, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
