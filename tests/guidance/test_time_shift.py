"""The time-shift sampler finds timesteps by the variance of coordinates."""

import math

import torch
from problems import random_vectors, step_at, vector_space
from torch import Tensor

from tag_lightning.diffusion import LinearSchedule, PointCloudSpace, Prediction, Step
from tag_lightning.guidance import TimeShift
from tag_lightning.guidance.time_shift import coordinate_variance

COUNT = 6
SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
POWERS = SCHEDULE.alphas_cumprod


def test_the_time_shift_finds_the_timestep_that_the_variance_belongs_to() -> None:
    """Coordinates of exactly the variance of another timestep, for data of a known variance."""
    data, at, asked = 0.3, torch.tensor([44, 52, 60, 57, 49, 70]), list[Tensor]()
    power = POWERS[at]
    pattern = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(8) * math.sqrt(15 / 16)
    x = 0.7 + (1 - power + power * data).sqrt()[:, None] * pattern
    torch.testing.assert_close(x.var(1), 1 - power + power * data)

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        asked.append(torch.as_tensor(timestep))
        return Prediction(x, x)

    step = shift_step(16, index=3)
    TimeShift(20, data).denoise(x, step, predict)
    assert asked[0].tolist() == [44, 52, 60, 57, 49, 60]  # the last one is outside the window of 40 .. 60
    TimeShift(20, data).denoise(x, shift_step(16, index=0), predict)
    assert asked[1] == 50


def shift_step(dim: int, index: int) -> Step:
    return step_at(SCHEDULE, vector_space(range(COUNT), dim), 50, 37, index)


def test_the_variance_of_a_cloud_does_not_see_its_padding() -> None:
    spaces = [PointCloudSpace([3, 5], 2, range(2), dtype=torch.float64, width=w) for w in (5, 9)]
    x = [torch.zeros(2, w, 5, dtype=torch.float64) for w in (5, 9)]
    values = random_vectors(2, 5, 5)
    for cloud, space in zip(x, spaces, strict=True):
        cloud[:, :5] = values
        cloud.copy_(space.project(cloud))
    narrow, wide = (coordinate_variance(cloud, space) for cloud, space in zip(x, spaces, strict=True))
    torch.testing.assert_close(narrow, wide)
    shifted = x[0] + 3 * torch.tensor([0, 0, 0, 1, 1]) * spaces[0].mask[..., None]
    torch.testing.assert_close(coordinate_variance(shifted, spaces[0]), narrow)
