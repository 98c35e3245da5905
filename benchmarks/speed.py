"""What things cost beside each other: ``python -m benchmarks.speed``."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import lightning
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from datamodules import DigitsDataModule
from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, LinearSchedule, Sampler
from tag_lightning.guidance import DPS, Condition, Guidance, TemporalAlignment
from tag_lightning.metrics import FrechetDistance, JudgeFeatures
from tag_lightning.modules import TimePredictorModule
from tag_lightning.networks import ImageClassifier, SimpleCNN
from tag_lightning.pretrained import load_pretrained

_STEPS = 2


class Ratio(NamedTuple):
    """One line of the table.

    Attributes:
        what: The comparison.
        values: Its ratio in every repeat.
        goal: What it should be at most; None where nothing is asked.
    """

    what: str
    values: list[float]
    goal: float | None


def steps(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Reverse steps with the published UNet size and SimpleCNN at batch 8, over one another."""
    unet = UNet2DModel(**_unet(quick)).eval().requires_grad_(False).to(device)
    predictor = SimpleCNN().eval().requires_grad_(False).to(device)
    predictor.typical_nll.fill_(5.0)
    guide = ImageClassifier().eval().requires_grad_(False).to(device)
    condition = Condition(guide, torch.arange(8, device=device))
    tag, dps = TemporalAlignment(predictor), DPS(condition)
    arms: dict[str, list[Guidance]] = {"plain": [], "tag": [tag], "dps": [dps], "dps+tag": [tag, dps]}
    denoiser = Denoiser(unet, LinearSchedule()).to(device)
    space = ImageSpace((3, 32, 32), range(8), device)
    samplers = {name: Sampler(denoiser, DDIM(), _STEPS, guidance) for name, guidance in arms.items()}
    jobs = {name: _sampling(sampler, space) for name, sampler in samplers.items()}
    seconds = _interleaved(jobs, repeats, device, "reverse steps")
    return [
        Ratio("TAG step / plain step", _over(seconds["tag"], seconds["plain"]), None),
        Ratio("DPS step / plain step", _over(seconds["dps"], seconds["plain"]), None),
        Ratio("DPS+TAG step / DPS step", _over(seconds["dps+tag"], seconds["dps"]), 1.05),
    ]


def training(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """A training step of the digits' time predictor inside the Trainer, over a bare loop on the same batches."""
    count = 10 if quick else 60
    jobs = {
        "trainer": lambda: _trainer_seconds(count, device),
        "bare": lambda: _bare_seconds(count, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in track(range(repeats), description="training steps"):
        for name, job in jobs.items():
            seconds[name].append(job())
    return [Ratio("training step in the Trainer / bare loop", _over(seconds["trainer"], seconds["bare"]), 1.10)]


def accumulation(device: torch.device, repeats: int, quick: bool) -> list[Ratio]:
    """Features and Frechet distance of digits, over drawing them with 25 steps."""
    count = 64 if quick else 256
    network, schedule = load_pretrained("digits/denoiser")
    assert schedule is not None
    judge = load_pretrained("digits/judge").network.to(device)
    features = JudgeFeatures(judge)  # type: ignore[arg-type]
    sampler = Sampler(Denoiser(network, schedule).to(device), DDIM(), 5 if quick else 25)
    space = ImageSpace((3, 16, 16), range(count), device)
    samples = sampler.sample(space, 0)

    def measure() -> None:
        distance = FrechetDistance(features.num_features)
        distance.update(features(samples), real=True)
        distance.update(features(samples.flip(-1)), real=False)
        distance.compute()

    jobs: dict[str, Callable[[], object]] = {"fid": measure, "sampling": _sampling(sampler, space)}
    seconds = _interleaved(jobs, repeats, device, "accumulation")
    return [Ratio("FID accumulation / sampling", _over(seconds["fid"], seconds["sampling"]), None)]


def _sampling(sampler: Sampler, space: ImageSpace) -> Callable[[], object]:
    return lambda: sampler.sample(space, 0)


def table(ratios: list[Ratio], repeats: int, device: torch.device) -> Table:
    """The ratios: median over the repeats, and the range they lie in."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    drawn = Table(title=f"{name}, torch {torch.__version__}, lightning {lightning.__version__}, {repeats} repeats")
    for column in ("what", "ratio", "range", "goal"):
        drawn.add_column(column, justify="left" if column == "what" else "right")
    for what, values, goal in ratios:
        spread = f"{min(values):.2f} .. {max(values):.2f}"
        drawn.add_row(what, f"{statistics.median(values):.3f}", spread, "" if goal is None else f"<= {goal:.2f}")
    return drawn


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it runs")
    parts = {part.__name__: part for part in (steps, training, accumulation)}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ratios: list[Ratio] = []
    for part in arguments.parts:
        ratios += parts[part](device, arguments.repeats, arguments.quick)
    Console(width=110).print(table(ratios, arguments.repeats, device))


def _unet(quick: bool) -> dict[str, object]:
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


def _interleaved(
    jobs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, what: str
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in track(range(repeats + 1), description=what):
        for name, job in jobs.items():
            started = _now(device)
            job()
            # The first round warms up.
            if repeat:
                seconds[name].append(_now(device) - started)
    return seconds


def _over(first: list[float], second: list[float]) -> list[float]:
    return [a / b for a, b in zip(first, second, strict=True)]


class _Clock(Callback):
    def __init__(self, warm_up: int, device: torch.device) -> None:
        self.warm_up = warm_up
        self.device = device
        self.started = self.ended = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.warm_up:
            self.started = _now(self.device)
        self.ended = _now(self.device)


def _trainer_seconds(count: int, device: torch.device) -> float:
    warm_up = 5
    clock = _Clock(warm_up, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=count + warm_up,
            default_root_dir=folder,
            callbacks=[clock],
            accelerator=device.type,
            devices=1,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            limit_val_batches=0,
        )
        trainer.fit(TimePredictorModule(SimpleCNN(16)), datamodule=DigitsDataModule())
    return (clock.ended - clock.started) / count


def _bare_seconds(count: int, device: torch.device) -> float:
    warm_up = 5
    data = DigitsDataModule()
    network: nn.Module = SimpleCNN(16).to(device)
    schedule = LinearSchedule().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    started, done = 0.0, 0
    while done < count + warm_up:
        for batch in data.train_dataloader():
            x0 = batch.x.to(device)
            timesteps = torch.randint(schedule.num_timesteps, (len(x0),), device=device)
            logits = network(schedule.add_noise(x0, torch.randn_like(x0), timesteps))
            loss = F.cross_entropy(logits, timesteps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == warm_up:
                started = _now(device)
            if done == count + warm_up:
                break
    return (_now(device) - started) / count


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
