import copy
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tag_lightning.diffusion import CosineSchedule, Denoiser, LinearSchedule, NoiseSchedule, PolynomialSchedule
from tag_lightning.diffusion.denoiser import PredictionType, prediction_target

KINDS = [LinearSchedule, CosineSchedule, PolynomialSchedule]
schedules = st.builds(lambda kind, total: kind(total), st.sampled_from(KINDS), st.integers(2, 300))
numbers = st.floats(-100, 100, allow_nan=False)


class Recites(nn.Module):
    """Gives the same answer to every question."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.answer


@st.composite
def noisy_sample(draw: st.DrawFn) -> tuple[NoiseSchedule, int, Tensor, Tensor]:
    """A schedule, a timestep, clean samples and noise ``[3, 2]``."""
    schedule = draw(schedules)
    timestep = draw(st.integers(0, schedule.num_timesteps - 1))
    x0, epsilon = (
        torch.tensor(draw(st.lists(numbers, min_size=6, max_size=6)), dtype=torch.float64).reshape(3, 2)
        for _ in range(2)
    )
    return schedule, timestep, x0, epsilon


@settings(deadline=None, max_examples=50)
@given(noisy_sample())
def test_noising_is_undone_by_a_denoiser_that_knows_the_noise_or_the_clean_sample(
    case: tuple[NoiseSchedule, int, Tensor, Tensor],
) -> None:
    schedule, timestep, x0, epsilon = case
    x = schedule.add_noise(x0, epsilon, timestep)
    a = float(schedule.alphas_cumprod[timestep])
    rounding = 1e-13 * (1 + x0.abs().max() + epsilon.abs().max()) / min(a, 1 - a) ** 0.5
    for kind in get_args(PredictionType):
        target = prediction_target(kind, schedule, x0, epsilon, torch.full((len(x),), timestep))
        prediction = Denoiser(Recites(target), schedule, kind)(x, timestep)
        assert (prediction.x0 - x0).abs().max() <= rounding
        assert (prediction.epsilon - epsilon).abs().max() <= rounding


@settings(deadline=None, max_examples=50)
@given(schedules)
def test_powers_decrease_inside_the_open_unit_interval(schedule: NoiseSchedule) -> None:
    powers = schedule.alphas_cumprod
    assert powers.dtype == torch.float64
    assert bool((powers.diff() < 0).all())
    assert 0 < powers[-1] < powers[0] < 1


def test_a_timestep_each_is_the_same_as_one_by_one() -> None:
    schedule, x0, epsilon = LinearSchedule(50), torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    timesteps = torch.tensor([0, 49, 7, 7])
    together = schedule.add_noise(x0, epsilon, timesteps)
    for i, timestep in enumerate(timesteps.tolist()):
        alone = schedule.add_noise(x0[i : i + 1], epsilon[i : i + 1], timestep)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=0)


def test_noised_samples_keep_the_dtype_of_the_clean_ones() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones(2, 3, dtype=dtype)
        assert LinearSchedule(10).add_noise(x, x, torch.tensor([1, 2])).dtype == dtype


@pytest.mark.parametrize(
    "cast",
    [
        nn.Module.half,
        nn.Module.float,
        nn.Module.bfloat16,
        lambda module: module.to(torch.float16),
        lambda module: module.to("cpu", torch.bfloat16),
        lambda module: copy.deepcopy(module).half(),
    ],
    ids=["half", "float", "bfloat16", "to", "to-device-and-dtype", "copied"],
)
def test_powers_stay_in_float64_when_the_denoiser_is_cast(cast: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Linear(2, 2).double()
    denoiser = cast(Denoiser(network, LinearSchedule(100), "epsilon"))
    assert denoiser.network.weight.dtype != torch.float64
    torch.testing.assert_close(denoiser.schedule.alphas_cumprod, LinearSchedule(100).alphas_cumprod, rtol=0, atol=0)


def test_powers_follow_the_module_to_its_device() -> None:
    schedule = nn.Sequential(LinearSchedule(100)).to("meta")[0]
    assert schedule.alphas_cumprod.device.type == "meta"
    assert schedule.alphas_cumprod.dtype == torch.float64


def test_powers_travel_with_the_state_dict() -> None:
    other = LinearSchedule(10, 1e-3, 0.5)
    other.load_state_dict(LinearSchedule(10).state_dict())
    torch.testing.assert_close(other.alphas_cumprod, LinearSchedule(10).alphas_cumprod, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("powers", "complaint"),
    [
        ([[0.9, 0.5]], r"vector \[T\], got shape \[1, 2\]"),
        ([], "vector"),
        ([1.0, 0.5], "strictly between 0 and 1"),
        ([0.5, 0.0], "strictly between 0 and 1"),
        ([0.5, float("nan")], "strictly between 0 and 1"),
        ([0.5, 0.5], "decrease"),
        ([0.5, 0.6], "decrease"),
    ],
)
def test_powers_that_are_no_schedule_are_refused(powers: list[float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        NoiseSchedule(torch.tensor(powers))


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_without_timesteps_is_refused(kind: type[LinearSchedule]) -> None:
    with pytest.raises(ValueError, match="num_timesteps must be at least 1, got 0"):
        kind(0)


@pytest.mark.parametrize("beta_end", [1.0, 1.5, float("nan")])
def test_impossible_betas_are_refused(beta_end: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        LinearSchedule(10, 1e-4, beta_end)


@pytest.mark.parametrize("timestep", [-1, 10, torch.tensor([3, 10])])
def test_timesteps_outside_the_schedule_are_refused(timestep: int | Tensor) -> None:
    x = torch.zeros(2, 2)
    with pytest.raises(IndexError):
        LinearSchedule(10).add_noise(x, x, timestep)
