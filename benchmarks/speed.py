"""Costs as ratios: ``python -m benchmarks.speed``."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import warnings
from collections.abc import Callable
from functools import partial

import diffusers
import lightning
import torch
import torchmetrics
from diffusers.models.unets.unet_2d import UNet2DModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.molecules import compiled, egnn, loader, qm9_batches, similar_sizes
from benchmarks.timing import Ratio, interleaved, over, seconds_of
from benchmarks.training_step import RECIPES, bare_seconds, trainer_seconds
from tag_lightning.diffusion import (
    DDIM,
    Conditioning,
    CounterNoise,
    Denoiser,
    ImageSpace,
    LinearSchedule,
    SampleNoise,
    Sampler,
)
from tag_lightning.guidance import (
    CFG,
    DPS,
    AdapterGuidance,
    Condition,
    Guidance,
    TemporalAlignment,
)
from tag_lightning.metrics import FrechetDistance, JudgeFeatures
from tag_lightning.networks import AdaptedUNet, FoldedUNet, ImageClassifier, SimpleCNN
from tag_lightning.pretrained import load_pretrained

_STEPS = 2


def published_unet(quick: bool) -> dict[str, object]:
    """Arguments of the UNet of 35.7 M parameters for CIFAR-10, or with ``quick`` of a small one."""
    if quick:
        plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        return {"sample_size": 32, "block_out_channels": (32, 32), "layers_per_block": 1, **plain}
    return {
        "sample_size": 32,
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        "attention_head_dim": 64,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    }


def steps(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Reverse steps with the published UNet size and SimpleCNN at batch 8, over one another."""
    unet = UNet2DModel(**published_unet(quick)).eval().requires_grad_(False).to(device)
    predictor = SimpleCNN().eval().requires_grad_(False).to(device)
    predictor.typical_nll.fill_(5.0)  # without it the default strength would have nothing to compare with
    guide = ImageClassifier().eval().requires_grad_(False).to(device)
    condition = Condition(guide, torch.arange(8, device=device))
    tag, dps = TemporalAlignment(predictor), DPS(condition)
    arms: dict[str, list[Guidance]] = {"plain": [], "tag": [tag], "dps": [dps], "dps+tag": [tag, dps]}
    denoiser = Denoiser(unet, LinearSchedule(), "epsilon").to(device)
    space = ImageSpace((3, 32, 32), range(8), device)
    jobs = {
        name: seconds_of(partial(Sampler(denoiser, DDIM(), _STEPS, guidance).sample, space, 0), device)
        for name, guidance in arms.items()
    }
    seconds = interleaved(jobs, repeats, "reverse steps")
    return [
        Ratio("TAG step / plain step", over(seconds["tag"], seconds["plain"]), None),
        Ratio("DPS step / plain step", over(seconds["dps"], seconds["plain"]), None),
        Ratio("DPS+TAG step / DPS step", over(seconds["dps+tag"], seconds["dps"]), 1.05),
    ]


def overhead(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """The reverse loop around the shipped UNet of the digits, 0.3 M parameters at batch 64, over its passes alone."""
    network, schedule, *_ = load_pretrained("digits/denoiser")
    assert schedule is not None
    denoiser = Denoiser(network, schedule, "epsilon").to(device)
    space = ImageSpace((3, 16, 16), range(8 if quick else 64), device)
    sampler = Sampler(denoiser, DDIM(eta=0.0), _STEPS if quick else 10)
    x = torch.randn(len(space.indices), *space.shape, device=device)

    @torch.no_grad()
    def passes() -> None:
        for timestep in sampler.timesteps:
            denoiser.network(x, torch.full((len(x),), timestep, device=device))

    jobs = {"sampler": seconds_of(partial(sampler.sample, space, 0), device), "passes": seconds_of(passes, device)}
    seconds = interleaved(jobs, repeats, "reverse loop")
    return [Ratio("plain step of the digits / pass of their UNet", over(seconds["sampler"], seconds["passes"]), 1.03)]


def distilled(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """A reverse step with adapters over one of classifier-free guidance, on the published UNet at batch 8."""
    unet = UNet2DModel(**published_unet(quick), num_class_embeds=11).eval()
    Conditioning.for_training(unet, "label", dropout=0.1)
    adapted = AdaptedUNet.on(unet, base="untrained").requires_grad_(False).eval()
    adapted.scale_range.copy_(torch.tensor([1.0, 6.0]))
    denoiser = Denoiser(adapted, LinearSchedule(), "epsilon").to(device)
    space = ImageSpace((3, 32, 32), range(8), device)
    space.denoiser_inputs = {"class_labels": torch.arange(8, device=device)}
    arms = {"cfg": CFG(2.0), "agd": AdapterGuidance(2.0)}
    jobs = {
        name: seconds_of(partial(Sampler(denoiser, DDIM(), _STEPS, [guidance]).sample, space, 0), device)
        for name, guidance in arms.items()
    }
    seconds = interleaved(jobs, repeats, "distilled guidance")
    return [Ratio("AdapterGuidance step / CFG step", over(seconds["agd"], seconds["cfg"]), 0.55)]


def training(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """A training step of the digits' networks inside the Trainer, over a bare loop on the same batches."""
    found = []
    for recipe in RECIPES:
        count = 3 if quick else recipe.steps
        jobs = {
            "trainer": partial(trainer_seconds, recipe, count, device),
            "bare": partial(bare_seconds, recipe, count, device),
        }
        seconds = interleaved(jobs, repeats, f"training steps, {recipe.what}")
        name = f"training step in the Trainer / bare loop, {recipe.what}"
        found.append(Ratio(name, over(seconds["trainer"], seconds["bare"]), 1.10))
    return found


def folded(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Forward and backward pass under bf16 on 32x32 images: folded UNet over a plain one of as many parameters."""
    levels = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    plain = UNet2DModel(
        block_out_channels=(48, 96, 128),
        down_block_types=levels[0],
        up_block_types=levels[1],
        layers_per_block=1,
        attention_head_dim=128,
        norm_num_groups=16,
    )
    networks: dict[str, nn.Module] = {"folded": FoldedUNet(), "plain": plain}
    x = torch.randn(2 if quick else 32, 3, 32, 32, device=device)
    timesteps = torch.randint(1000, (len(x),), device=device)

    def step(network: nn.Module) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            output = network(x, timesteps)
        (output if isinstance(output, Tensor) else output.sample).square().mean().backward()

    jobs = {name: seconds_of(partial(step, network.to(device)), device) for name, network in networks.items()}
    seconds = interleaved(jobs, repeats, "folded images")
    millions = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks.values()]
    name = f"FoldedUNet of {millions[0]:.1f} M / UNet2DModel of {millions[1]:.1f} M parameters, 32x32, bf16"
    return [Ratio(name, over(seconds["folded"], seconds["plain"]), None)]


def noise(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """A draw of noise as samples on an accelerator have it, over other ways to have it on this device."""
    shape, count = ((3, 8, 8), 8) if quick else ((3, 32, 32), 512)
    space = ImageSpace(shape, range(count), device)
    draws: dict[str, Callable[[], object]] = {
        "counters": partial(space.noise, CounterNoise(0, range(count), 0, device)),
        "host": partial(space.noise, SampleNoise(0, range(count))),
        "randn": partial(torch.randn, count, *shape, device=device),
    }
    seconds = interleaved({name: seconds_of(draw, device) for name, draw in draws.items()}, repeats, "noise")
    size = " x ".join(map(str, (count, *shape)))
    return [
        Ratio(f"noise of an accelerator / {other}, {size}", over(seconds["counters"], seconds[name]), None)
        for name, other in {"host": "a generator per sample on the host", "randn": "torch.randn"}.items()
    ]


def accumulation(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Features and Frechet distance of digits, over drawing them with 25 steps."""
    count = 64 if quick else 512
    network, schedule, *_ = load_pretrained("digits/denoiser")
    assert schedule is not None
    judge = load_pretrained("digits/judge").network.to(device)
    features = JudgeFeatures(judge)
    sampler = Sampler(Denoiser(network, schedule, "epsilon").to(device), DDIM(), 5 if quick else 25)
    space = ImageSpace((3, 16, 16), range(count), device)
    samples = sampler.sample(space, 0)
    distance = FrechetDistance(features.num_features)
    distance.update(features(samples.flip(-1)), real=True)

    def measure() -> None:
        distance.reset(keep_real=True)
        distance.update(features(samples), real=False)
        distance.compute()

    draw = partial(sampler.sample, space, 0)
    seconds = interleaved(
        {"fid": seconds_of(measure, device), "sampling": seconds_of(draw, device)}, repeats, "accumulation"
    )
    return [Ratio("FID accumulation / sampling", over(seconds["fid"], seconds["sampling"]), None)]


def table(ratios: list[Ratio], repeats: int, device: torch.device) -> Table:
    """The ratios: median over the repeats, and the range they lie in."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    packages = (torch, lightning, diffusers, torchmetrics)
    versions = ", ".join(f"{package.__name__} {package.__version__}" for package in packages)
    title = f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads, {repeats} repeats\n{versions}"
    drawn = Table(title=title, title_justify="left")
    for column in ("what", "ratio", "range", "goal"):
        drawn.add_column(column, justify="left" if column == "what" else "right")
    for what, values, goal in ratios:
        spread = f"{min(values):.3f} .. {max(values):.3f}"
        drawn.add_row(what, f"{statistics.median(values):.3f}", spread, "" if goal is None else f"<= {goal:.2f}")
    return drawn


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None takes those of the process.
    """
    parts: dict[str, Callable[[torch.device, int, bool], list[Ratio]]] = {
        "steps": steps,
        "overhead": overhead,
        "distilled": distilled,
        "training": training,
        "accumulation": accumulation,
        "noise": noise,
        "folded": folded,
        "egnn": egnn,
        "similar_sizes": similar_sizes,
        "qm9_batches": qm9_batches,
        "compiled": compiled,
        "loader": loader,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it runs")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    arguments = parser.parse_args(args)
    if arguments.repeats < 1:
        parser.error("a ratio needs at least 1 repeat")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ratios: list[Ratio] = []
    for part in arguments.parts:
        ratios += parts[part](device, arguments.repeats, arguments.quick)
    if arguments.quick:
        ratios = [ratio._replace(goal=None) for ratio in ratios]  # meant for the real sizes
    Console(width=120).print(table(ratios, arguments.repeats, device))


if __name__ == "__main__":
    # What Lightning says about every one of many short runs would bury the table.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    main()
