"""TAG with the length of its step from an estimate of the noise level: closed forms for samples of pure noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import random_vectors, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import LinearSchedule, Predict, Run, SampleNoise, Step
from tag_lightning.guidance import KnownNoise, LevelAlignment, NoiseLevel

POWERS = LinearSchedule(100, 1e-4, 0.1).alphas_cumprod
HERE, DIM = 40, 64


class NoiseWithoutSignal(nn.Module):
    """The exact posterior of the timestep for data that are all zero, under equal priors."""

    def forward(self, x: Tensor) -> Tensor:
        variance = 1 - POWERS
        return -x.square().sum(1, keepdim=True) / (2 * variance) - x.shape[1] / 2 * variance.log()


class Given(NoiseLevel):
    """A level that is written down."""

    def __init__(self, log_ratio: float) -> None:
        self.value = log_ratio

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return torch.full((len(x),), self.value, dtype=x.dtype)


def step_at(timestep: int, count: int) -> Step:
    space, power = vector_space(range(count), DIM), float(POWERS[timestep])
    return Step(0, timestep, None, power, 1.0, 100, [(power, 1.0)], space, SampleNoise(0, range(count), stream=1))


def never(x: Tensor, timestep: Tensor | int, **inputs: object) -> None:
    raise AssertionError("the denoiser was asked")


def corrected(x: Tensor, level: NoiseLevel) -> Tensor:
    return LevelAlignment(NoiseWithoutSignal(), level).correct(x, step_at(HERE, len(x)), never)  # type: ignore[arg-type]


@given(log_ratio=st.floats(-0.7, 1.0).filter(lambda value: abs(value) > 0.1))
def test_a_sample_with_too_much_or_too_little_noise_ends_at_the_length_of_its_noise(log_ratio: float) -> None:
    sigma = float((1 - POWERS[HERE]).sqrt())
    directions = torch.nn.functional.normalize(random_vectors(5, DIM, scale=1.0), dim=1)
    right = sigma * math.sqrt(DIM) * directions
    torch.testing.assert_close(corrected(math.exp(log_ratio) * right, Given(log_ratio)), right)


def test_the_right_level_changes_nothing() -> None:
    x = random_vectors(5, DIM, scale=1.0)
    assert torch.equal(corrected(x, Given(0.0)), x)
    assert torch.equal(corrected(x, KnownNoise(0.0)), x)


def test_a_sample_without_a_score_stays() -> None:
    x = torch.zeros(3, DIM, dtype=torch.float64)
    assert torch.equal(corrected(x, Given(0.5)), x)


def test_what_is_open_comes_from_the_run() -> None:
    class Regressor(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            return 0.3 * torch.ones(len(x), dtype=x.dtype)

    x, run = random_vectors(4, DIM, scale=1.0), Run(NoiseWithoutSignal(), {}, Regressor())
    ready = LevelAlignment().for_run(run)
    moved = ready.correct(x, step_at(HERE, 4), never)  # type: ignore[arg-type]
    assert torch.equal(moved, corrected(x, Given(0.3)))
    with pytest.raises(ValueError, match=r"^LevelAlignment has no predictor"):
        LevelAlignment().for_run(Run(None, {}, Regressor()))
    with pytest.raises(ValueError, match=r"^RegressedNoise has no network: pass network=\.\.\., or give the run"):
        LevelAlignment().for_run(Run(NoiseWithoutSignal(), {}))
