"""The error of a learned score along the reverse process, with and without TAG: ``python -m benchmarks.score_error``.

TAG's argument (arXiv 2510.11057) is that a denoiser errs least on samples of the timestep it is told. On a Gaussian
mixture the exact prediction is known, so the error of a denoiser that was learned from data can be measured where the
samples are.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, BoxSpace, Denoiser, LinearSchedule, Sampler, Step
from tag_lightning.evaluation.figures import COLOURS, save_png
from tag_lightning.guidance import Corruption, Drift, Guidance, TemporalAlignment
from tag_lightning.networks import MixtureDenoiser, MLPTimePredictor
from tag_lightning.progress import tracked

_CENTRE = 10.0
_BATCH = 512
_EMBEDDING = 32
_FIFTHS = 5


class PointDenoiser(nn.Module):
    """A multilayer perceptron that predicts the noise in points.

    Args:
        dimension: D, coordinates of a point.
        width: Width of the three hidden layers.
    """

    def __init__(self, dimension: int, width: int = 128) -> None:
        super().__init__()
        sizes = [dimension + _EMBEDDING, width, width, width]
        layers = [nn.Sequential(nn.Linear(a, b), nn.SiLU()) for a, b in pairwise(sizes)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dimension))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The noise ``[B, D]`` in points ``x [B, D]`` at ``timesteps [B]``."""
        return self.layers(torch.cat((x / _CENTRE, get_timestep_embedding(timesteps, _EMBEDDING)), 1))


def trained(dimension: int, schedule: LinearSchedule, num_steps: int) -> tuple[PointDenoiser, MLPTimePredictor]:
    """A denoiser and a time predictor, learned from the same noisy points of ``1/2 N(m, I) + 1/2 N(-m, I)``."""
    denoiser = PointDenoiser(dimension)
    predictor = MLPTimePredictor(dimension, num_timesteps=schedule.num_timesteps)
    optimizer = torch.optim.Adam([*denoiser.parameters(), *predictor.parameters()], lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in tracked(range(num_steps), "training"):
        component = 2 * torch.randint(2, (_BATCH, 1)) - 1
        x0, epsilon = component * _CENTRE + torch.randn(_BATCH, dimension), torch.randn(_BATCH, dimension)
        timesteps = torch.randint(schedule.num_timesteps, (_BATCH,))
        x = schedule.add_noise(x0, epsilon, timesteps)
        loss = F.mse_loss(denoiser(x, timesteps), epsilon) + F.cross_entropy(predictor(x), timesteps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return denoiser.eval(), predictor.eval()


def processes(predictor: nn.Module, strength: float) -> dict[str, list[Guidance]]:
    """The reverse processes that are compared, by name."""
    tag = TemporalAlignment(predictor, strength=strength)
    disturbed: dict[str, Guidance] = {"drift": Drift(-0.01), "corruption": Corruption(0.2)}
    arms: dict[str, list[Guidance]] = {"undisturbed": [], "tag": [tag]}
    for name, disturbance in disturbed.items():
        arms |= {name: [disturbance], f"{name}+tag": [disturbance, tag]}
    return arms


def measure(
    dimension: int, num_samples: int, num_steps: int, strength: float, seed: int
) -> dict[str, dict[int, Tensor]]:
    """``|epsilon - exact epsilon| / sqrt(D)`` ``[num_samples]`` by process and timestep, at the denoiser's input."""
    torch.manual_seed(seed)
    schedule = LinearSchedule(100, beta_end=0.1)
    network, predictor = trained(dimension, schedule, num_steps)
    exact = MixtureDenoiser(((_CENTRE,) * dimension, (-_CENTRE,) * dimension))
    found: dict[str, dict[int, Tensor]] = {}

    def observe(name: str, x: Tensor, step: Step) -> None:
        timesteps = torch.full((len(x),), step.timestep)
        error = network(x, timesteps) - exact(x, timesteps)
        found.setdefault(name, {})[step.timestep] = error.norm(dim=1) / dimension**0.5

    for name, guidance in processes(predictor, strength).items():
        sampler = Sampler(Denoiser(network, schedule, "epsilon"), DDIM(1.0), schedule.num_timesteps, guidance)
        sampler.sample(BoxSpace((dimension,), range(num_samples)), seed, [partial(observe, name)])
    return found


def draw(errors: Mapping[str, Mapping[int, Tensor]]) -> Figure:
    """Median error over samples by timestep."""
    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, (name, steps) in enumerate(errors.items()):
        timesteps = sorted(steps)
        style = "--" if name.endswith("tag") else "-"
        median = [float(steps[t].median()) for t in timesteps]
        axes.plot(timesteps, median, style, color=COLOURS[index // 2], label=name)
    axes.set(xlabel="timestep", ylabel="error of the predicted noise", yscale="log")
    axes.invert_xaxis()
    axes.legend(frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Train, measure, print a table by fifths of the timesteps, and draw.

    Args:
        args: Arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimension", type=int, default=2)
    parser.add_argument("--num_samples", type=int, default=1000)
    parser.add_argument("--num_steps", type=int, default=4000, help="training steps of both networks")
    parser.add_argument("--strength", type=float, default=0.3, help="constant strength of TAG")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("score_error.png"))
    arguments = parser.parse_args(args)
    runs = [
        measure(arguments.dimension, arguments.num_samples, arguments.num_steps, arguments.strength, seed)
        for seed in arguments.seeds
    ]
    table = Table("timesteps", *runs[0], title="median error of the predicted noise, mean ± deviation over seeds")
    width = len(runs[0]["undisturbed"]) // _FIFTHS
    for low in range((_FIFTHS - 1) * width, -1, -width):
        cells = []
        for name in runs[0]:
            medians = torch.stack([torch.cat([run[name][t] for t in range(low, low + width)]).median() for run in runs])
            spread = f" ± {medians.std():.3f}" if len(runs) > 1 else ""
            cells.append(f"{medians.mean():.3f}{spread}")
        table.add_row(f"{low} .. {low + width - 1}", *cells)
    Console().print(table)
    save_png(draw(runs[0]), arguments.out)
    print(f"The picture is in {arguments.out}")


if __name__ == "__main__":
    main()
