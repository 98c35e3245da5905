"""Small problems with known answers, shared by the tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gaussian_mixture import ExactDenoiser, GaussianMixture
from torch import Tensor, nn

from tag_lightning.diffusion import (
    CounterNoise,
    Denoiser,
    ImageSpace,
    LinearSchedule,
    NoiseSchedule,
    Prediction,
    Proposal,
    SampleNoise,
    Solver,
    Space,
    Step,
)

TOY = GaussianMixture([1, 1], [[10, 10], [-10, -10]], [1, 1])
"""The data of the toy experiment of arXiv 2510.11057."""

UNEVEN = GaussianMixture([1, 2, 3], [[1.5, 0.0], [-1.0, 1.0], [0.0, -2.0]], [0.2, 0.5, 0.05])
"""A mixture without symmetries, on the scale of normalised data."""


def toy_schedule() -> LinearSchedule:
    """The schedule of the toy experiment."""
    return LinearSchedule(100, 1e-4, 0.1)


def exact_denoiser(mixture: GaussianMixture, schedule: NoiseSchedule) -> Denoiser:
    """A denoiser without error."""
    return Denoiser(ExactDenoiser(mixture, schedule), schedule, "epsilon")


def vector_space(indices: Sequence[int], dim: int = 2, dtype: torch.dtype = torch.float64) -> ImageSpace:
    """Vectors of ``dim`` coordinates that are never clipped."""
    return ImageSpace((dim,), indices, dtype=dtype, clip_range=None)


class ScriptedSpace(ImageSpace):
    """A space whose noise is written down beforehand.

    Args:
        script: ``[draws, B, ...]``, handed out one draw after the other.
        clip_range: Bounds of a clean sample; None leaves it as it is.
    """

    def __init__(self, script: Tensor, clip_range: tuple[float, float] | None = None) -> None:
        super().__init__(script.shape[2:], range(script.shape[1]), dtype=script.dtype, clip_range=clip_range)
        self.script = list(script)

    def noise(self, source: SampleNoise) -> Tensor:
        return self.script.pop(0)


class DeviceNoiseSpace(ImageSpace):
    """Samples on the CPU with the noise that those on an accelerator have."""

    def noise_source(self, seed: int, stream: int = 0) -> SampleNoise:
        return CounterNoise(seed, self.indices, stream, self.device)


def step_at(schedule: NoiseSchedule, space: Space, timestep: int, next_timestep: int | None, index: int = 0) -> Step:
    """The step from one timestep to another, as the sampler would describe it."""
    powers = schedule.alphas_cumprod.tolist()
    next_power = 1.0 if next_timestep is None else powers[next_timestep]
    source, level = SampleNoise(0, space.indices, stream=1), (powers[timestep], next_power)
    return Step(
        *(index, timestep, next_timestep, *level, len(powers), [level], space, source),
        alphas_cumprod=schedule.alphas_cumprod,
    )


def proposed(solver: Solver, prediction: Prediction, step: Step) -> Proposal:
    """The proposal of a solver that asks neither for the sample nor for further predictions."""

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor) -> Prediction:
        raise AssertionError("one prediction is enough")

    return solver.propose(torch.full_like(prediction.x0, torch.nan), prediction, step, predict)


class Asked(nn.Module):
    """A time predictor without a gradient that keeps the samples it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return 0 * x.sum(1, keepdim=True) + torch.zeros(100, dtype=x.dtype)


def half_square(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance of vectors, ``[B]``: the loss of a Gaussian likelihood."""
    return (output - target).square().sum(1) / 2


def random_vectors(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Reproducible normal numbers in float64."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
