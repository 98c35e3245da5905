"""The angle of TAG's gradient and the guidance's along the reverse process: ``python -m benchmarks.gradient_angles``.

Answers whether alignment works against guidance: the cosine is measured per sample and timestep on the shipped digits,
under plain DPS and under steps of a fixed length.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, Prediction, Proposal, Sampler, Step
from tag_lightning.evaluation.figures import COLOURS, save_png
from tag_lightning.guidance import DPS, Condition, ConditionedGuidance, FixedLengthSteps, Guidance, TemporalAlignment
from tag_lightning.pretrained import load_pretrained
from tag_lightning.progress import tracked

_CHUNK = 64


class GradientAngle(ConditionedGuidance):
    """Measures the cosine of the time-linked score and the guidance gradient at the denoiser's input; changes nothing.

    Args:
        predictor: The time predictor.
        condition: The condition that guides.

    Attributes:
        cosines: Cosines ``[B]`` by timestep.
    """

    def __init__(self, predictor: nn.Module, condition: Condition) -> None:
        super().__init__(condition)
        self.alignment = TemporalAlignment(predictor)
        self.cosines: dict[int, Tensor] = {}

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        gradient = self.gradient(x, prediction, step)
        score = self.alignment.evidence(x.detach(), step).score
        self.cosines[step.timestep] = torch.cosine_similarity(gradient.flatten(1), score.flatten(1))
        return proposal


def guidances(condition: Condition) -> dict[str, list[Guidance]]:
    """The guided processes that are compared, by name."""
    return {
        "unguided": [],
        "dps, scale 8": [DPS(condition, scale=8.0)],
        "fixed length": [FixedLengthSteps(DPS(condition))],
    }


def measure(num_samples: int, seed: int) -> dict[str, dict[int, Tensor]]:
    """Cosines ``[num_samples]`` by process and timestep, for digits of every class in turn."""
    network, schedule, prediction_type, *_ = load_pretrained("digits/denoiser")
    assert schedule is not None  # a denoiser has one
    denoiser = Denoiser(network, schedule, prediction_type)
    predictor, guide = (load_pretrained(f"digits/{name}").network for name in ("time_predictor", "guide"))
    found: dict[str, dict[int, list[Tensor]]] = {}
    chunks = [range(i, min(i + _CHUNK, num_samples)) for i in range(0, num_samples, _CHUNK)]
    for indices in tracked(chunks, "sampling"):
        condition = Condition(guide, torch.tensor(indices) % 10)
        for name, guidance in guidances(condition).items():
            angle = GradientAngle(predictor, condition)
            sampler = Sampler(denoiser, DDIM(0.0), 25, [*guidance, angle])
            sampler.sample(ImageSpace((3, 16, 16), indices), seed)
            for timestep, cosines in angle.cosines.items():
                found.setdefault(name, {}).setdefault(timestep, []).append(cosines)
    return {name: {t: torch.cat(parts) for t, parts in steps.items()} for name, steps in found.items()}


def draw(cosines: Mapping[str, Mapping[int, Tensor]]) -> Figure:
    """Mean and standard deviation over samples of the cosine, by timestep."""
    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for colour, (name, steps) in zip(COLOURS, cosines.items(), strict=False):
        timesteps = sorted(steps)
        mean = torch.stack([steps[t].mean() for t in timesteps])
        spread = torch.stack([steps[t].std() for t in timesteps])
        axes.plot(timesteps, mean, color=colour, label=name)
        axes.fill_between(timesteps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="timestep", ylabel="cosine of TAG's and the guidance gradient")
    axes.invert_xaxis()
    axes.legend(frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print a table by fifths of the timesteps, and draw.

    Args:
        args: Arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gradient_angles.png"))
    arguments = parser.parse_args(args)
    cosines = measure(arguments.num_samples, arguments.seed)
    table = Table("timesteps", *cosines, title="cosine, mean ± standard deviation; share opposed")
    for low in range(800, -1, -200):
        cells = []
        for steps in cosines.values():
            values = torch.cat([values for t, values in steps.items() if low <= t < low + 200])
            cells.append(f"{values.mean():+.3f} ± {values.std():.3f}; {100 * (values < 0).float().mean():.0f} %")
        table.add_row(f"{low} .. {low + 199}", *cells)
    Console().print(table)
    save_png(draw(cosines), arguments.out)
    print(f"The picture is in {arguments.out}")


if __name__ == "__main__":
    main()
