"""Each method's step over the plain step, with the passes of every network: ``python -m benchmarks.methods``."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import interleaved, over, seconds_of
from tag_lightning.diffusion import (
    CONDITION_KEY,
    DDIM,
    NULL_TIMESTEP_KEY,
    Conditioning,
    Denoiser,
    Guidance,
    ImageSpace,
    NoiseSchedule,
    PointCloudSpace,
    Sampler,
    Space,
)
from tag_lightning.guidance import (
    APG,
    CFG,
    DPS,
    DSG,
    GFCG,
    LGD,
    MPGD,
    TFG,
    UGD,
    AdapterGuidance,
    AdaptiveGuidance,
    AdaptiveLengthSteps,
    AdaptiveMoments,
    AlignedMoves,
    AutoGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFreeNoiseAwareness,
    ClassifierGuidance,
    Condition,
    ConditionEvaluator,
    Corruption,
    Drift,
    DynamicCFG,
    EluCD,
    EpsilonScaling,
    FixedLengthSteps,
    FreeDoM,
    LangevinCorrector,
    LevelAlignment,
    MoreRedAS,
    MoreRedITP,
    MoreRedJT,
    NoiseAwarenessGuidance,
    NoiseLevelCorrection,
    PosteriorNoise,
    ProximalAlignment,
    Quantisation,
    REDDiff,
    RegressedNoise,
    ResidualDPS,
    Retiming,
    RLGuidance,
    SelfGuidance,
    SquaredError,
    TangentialGuidance,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
    TimeCorrection,
    TimeEvaluator,
    TimeShift,
    TimestepGuidance,
    TrustRegion,
)
from tag_lightning.guidance.conditions import cross_entropy
from tag_lightning.pretrained import load_pretrained

_STAND_IN = Conditioning("label", "class_labels", num_classes=10, has_null=True)


class Counted(nn.Module):
    """A network that counts its forward passes, and the backward passes that reach its output.

    Args:
        network: The network.
        told_timesteps: Hand the keyword argument ``timesteps`` on; the guide of clean samples does not take it.
        told_class: Hand the class and the guidance scale on.
    """

    def __init__(self, network: nn.Module, told_timesteps: bool = False, told_class: bool = False) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.told_timesteps = told_timesteps
        self.told_class = told_class
        self.scale_range = getattr(network, "scale_range", None)
        self.typical_nll = getattr(network, "typical_nll", None)
        self.num_classes = getattr(network, "num_classes", None)
        # The denoiser stands in for one trained with its timestep dropped, or of molecules told a class: a pass costs
        # the same.
        self.config = {NULL_TIMESTEP_KEY: True, CONDITION_KEY: asdict(_STAND_IN)}
        self.passes = [0, 0]

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        class_labels: Tensor | None = None,
        guidance_scale: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """The network's own output."""
        self.passes[0] += 1
        if self.told_class:
            inputs |= {"class_labels": class_labels, "guidance_scale": guidance_scale}  # type: ignore[dict-item]
        output = self.network(x, timesteps, **inputs) if self.told_timesteps else self.network(x, **inputs)
        output = output if isinstance(output, Tensor) else output.sample
        if output.requires_grad:
            output.register_hook(self._count)
        return output

    def _count(self, gradient: Tensor) -> None:
        self.passes[1] += 1


class Bench(NamedTuple):
    """The networks and the space of one kind of samples.

    Attributes:
        name: The kind.
        networks: ``denoiser``, ``guide``, ``predictor`` and ``regressor`` of the noise level.
        schedule: The denoiser's.
        condition: The condition that the guide judges.
        space: The samples of the benchmark.
    """

    name: str
    networks: Mapping[str, Counted]
    schedule: NoiseSchedule
    condition: Condition
    space: Space


class Row(NamedTuple):
    """One method: its time over that of the plain step by round, and passes per step of each network."""

    name: str
    ratios: list[float]
    passes: Mapping[str, tuple[float, float]]


def digits(batch: int, device: torch.device) -> Bench:
    """The shipped networks of the digits."""
    networks, schedule = _shipped("digits", device, denoiser="guidance_adapters")
    labels = torch.arange(batch, device=device) % 10
    space = ImageSpace((3, 16, 16), range(batch), device)
    space.denoiser_inputs = {"class_labels": labels}
    return Bench("digits", networks, schedule, Condition(networks["guide"], labels), space)


def molecules(batch: int, device: torch.device) -> Bench:
    """The shipped networks of the small molecules, for molecules of 12 atoms."""
    networks, schedule = _shipped("molecules", device)
    space = PointCloudSpace([12] * batch, 5, range(batch), device)
    space.denoiser_inputs = {"class_labels": torch.zeros(batch, dtype=torch.long, device=device)}
    with torch.no_grad():
        outputs = networks["guide"](torch.zeros(batch, 12, 8, device=device), **space.inputs)
    condition = Condition(networks["guide"], torch.zeros_like(outputs), SquaredError(1e3))
    return Bench("molecules", networks, schedule, condition, space)


def methods(
    condition: Condition, predictor: nn.Module, denoiser: Denoiser, regressor: nn.Module
) -> dict[str, list[Guidance]]:
    """Every method with its defaults, at a scale that keeps the samples finite.

    Two need a class, one adapters. The denoiser is also the second of the methods that compare two.
    """
    listed = (
        _moves(condition, predictor)
        | _corrections(predictor, regressor)
        | _of_denoisers(condition, predictor, denoiser)
    )
    if getattr(denoiser, "scale_range", True):
        listed["AdapterGuidance"] = [AdapterGuidance()]
    if getattr(condition, "loss", cross_entropy) is cross_entropy:
        listed["EluCD"] = [EluCD(condition, 0.01)]
        listed["GFCG"] = [GFCG(condition)]
    return listed


def _moves(condition: Condition, predictor: nn.Module) -> dict[str, list[Guidance]]:
    return {
        "plain": [],
        "TemporalAlignment": [TemporalAlignment(predictor, 0.01)],
        "TemporalAlignmentAfterStep": [TemporalAlignmentAfterStep(predictor, 0.01)],
        "DPS": [DPS(condition, 0.01)],
        "TemporalAlignment, DPS": [TemporalAlignment(predictor, 0.01), DPS(condition, 0.01)],
        "ResidualDPS": [ResidualDPS(condition, 0.01)],
        "TFG": [TFG(condition, 0.01, 0.01)],
        "LGD": [LGD(condition, 0.01)],
        "FreeDoM": [FreeDoM(condition, 0.01)],
        "MPGD": [MPGD(condition, 0.01)],
        "UGD": [UGD(condition, 0.01, 0.01)],
        "REDDiff": [REDDiff(condition)],
        "ClassifierGuidance": [ClassifierGuidance(condition, 0.01)],
        "DSG": [DSG(condition)],
        "AdaptiveMoments(DPS)": [AdaptiveMoments(DPS(condition, 0.01))],
        "TrustRegion(DPS)": [TrustRegion(DPS(condition, 0.01))],
        "FixedLengthSteps(DPS)": [FixedLengthSteps(DPS(condition))],
        "AdaptiveLengthSteps(DPS)": [AdaptiveLengthSteps(DPS(condition))],
        "TangentialGuidance": [TangentialGuidance()],
        "ProximalAlignment(DPS)": [ProximalAlignment(DPS(condition, 0.01), predictor)],
        "AlignedMoves(DPS)": [AlignedMoves(DPS(condition, 0.01), predictor)],
    }


def _corrections(predictor: nn.Module, regressor: nn.Module) -> dict[str, list[Guidance]]:
    return {
        "TimeCorrection": [TimeCorrection(predictor)],
        "TimeShift": [TimeShift()],
        "TimestepGuidance": [TimestepGuidance()],
        "SelfGuidance": [SelfGuidance()],
        "EpsilonScaling": [EpsilonScaling()],
        "LangevinCorrector": [LangevinCorrector()],
        "NoiseLevelCorrection": [NoiseLevelCorrection(RegressedNoise(regressor))],
        "Retiming": [Retiming(RegressedNoise(regressor))],
        "LevelAlignment": [LevelAlignment(predictor, RegressedNoise(regressor))],
        "NoiseLevelCorrection by the time predictor": [NoiseLevelCorrection(PosteriorNoise(predictor, 1, 1.0))],
        "Corruption": [Corruption(0.01)],
        "Drift": [Drift(0.01)],
        "Quantisation": [Quantisation(4)],
        "NoiseAwarenessGuidance": [NoiseAwarenessGuidance(predictor, 0.01)],
        "ClassifierFreeNoiseAwareness": [ClassifierFreeNoiseAwareness()],
    }


def _of_denoisers(condition: Condition, predictor: nn.Module, denoiser: Denoiser) -> dict[str, list[Guidance]]:
    return {
        "CFG": [CFG()],
        "CFGPlusPlus": [CFGPlusPlus()],
        "APG": [APG()],
        "AdaptiveGuidance": [AdaptiveGuidance()],
        "CFGZeroStar": [CFGZeroStar()],
        "DynamicCFG": [DynamicCFG(evaluators=[ConditionEvaluator(condition)])],
        "DynamicCFG by the time predictor": [DynamicCFG(evaluators=[TimeEvaluator(predictor)])],
        "AutoGuidance": [AutoGuidance(denoiser)],
        "RLGuidance": [RLGuidance(denoiser)],
        "MoreRedAS": [MoreRedAS(predictor)],
        "MoreRedITP": [MoreRedITP(predictor)],
        "MoreRedJT": [MoreRedJT(predictor)],
    }


def measured(
    bench: Bench, num_steps: int, repeats: int, device: torch.device, only: Sequence[str] | None = None
) -> list[Row]:
    """All methods, or the plain step and those named, in turns, on the same samples, by ``DDIM`` at eta 1."""
    denoiser = Denoiser(bench.networks["denoiser"], bench.schedule, "epsilon").to(device)
    jobs: dict[str, Callable[[], object]] = {}
    passes = {}
    listed = methods(bench.condition, bench.networks["predictor"], denoiser, bench.networks["regressor"])
    for name, guidance in listed.items():
        if only is not None and name not in ("plain", *only):
            continue
        jobs[name] = partial(Sampler(denoiser, DDIM(1.0), num_steps, guidance).sample, bench.space, 0)
        before = {role: tuple(network.passes) for role, network in bench.networks.items()}
        jobs[name]()
        passes[name] = {
            role: tuple((now - then) / num_steps for now, then in zip(network.passes, before[role], strict=True))
            for role, network in bench.networks.items()
        }
    timed = {name: _processor_seconds_of(job, device) for name, job in jobs.items()}
    seconds = interleaved(timed, repeats, f"steps of the {bench.name}")
    return [Row(name, over(taken, seconds["plain"]), passes[name]) for name, taken in seconds.items()]  # type: ignore[arg-type]


def cells(row: Row) -> list[str]:
    """A row as text: name, median and range of the ratio, passes forward / backward of each network."""
    spread = f"{min(row.ratios):.2f} .. {max(row.ratios):.2f}"
    counted = [f"{forward:g} / {backward:g}" for forward, backward in row.passes.values()]
    return [row.name, f"{statistics.median(row.ratios):.2f}", spread, *counted]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a document."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None takes those of the process.
    """
    kinds = {"digits": digits, "molecules": molecules}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="reverse steps of each measurement")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--methods", nargs="+", choices=_names(), metavar="METHOD", help="rows; all if left out")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--out", type=Path, help="folder for one Markdown table of each kind")
    arguments = parser.parse_args(args)
    for name in ("repeats", "steps", "batch"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for kind in arguments.kinds:
        bench = kinds[kind](arguments.batch, device)
        rows = [cells(row) for row in measured(bench, arguments.steps, arguments.repeats, device, arguments.methods)]
        header = ["method", "time / plain", "range", *bench.networks]
        title = f"{kind}, batch {arguments.batch}, {torch.get_num_threads()} of {os.cpu_count()} threads"
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        Console(width=120).print(table)
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / f"{kind}.md").write_text(markdown(header, rows))


def _processor_seconds_of(job: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Time that the processor spent on ``job``, so that other jobs of the machine do not count; wall time on a GPU."""
    if device.type == "cuda":
        return seconds_of(job, device)

    def measure() -> float:
        started = time.process_time()
        job()
        return time.process_time() - started

    return measure


def _names() -> list[str]:
    """The rows beside the plain step."""
    nothing = nn.Identity()
    return [name for name in methods(None, nothing, nothing, nothing) if name != "plain"]  # type: ignore[arg-type]


def _shipped(kind: str, device: torch.device, denoiser: str = "denoiser") -> tuple[dict[str, Counted], NoiseSchedule]:
    network, schedule, *_ = load_pretrained(f"{kind}/{denoiser}")
    assert schedule is not None
    others = {"guide": "guide", "predictor": "time_gap_predictor"}
    networks = {"denoiser": Counted(network, told_timesteps=True, told_class=denoiser == "guidance_adapters")}
    networks |= {role: Counted(load_pretrained(f"{kind}/{folder}").network) for role, folder in others.items()}
    networks["regressor"] = Counted(load_pretrained(f"{kind}/noise_level").network, told_timesteps=True)
    return {role: network.to(device) for role, network in networks.items()}, schedule


if __name__ == "__main__":
    main()
