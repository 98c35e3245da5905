"""DDIM with an exact denoiser on Gaussian data, where every step is affine and moments have a closed form."""

import itertools
import math

import pytest
import torch
from gaussian_mixture import GaussianMixture
from problems import DeviceNoiseSpace, ScriptedSpace, exact_denoiser
from scipy import stats

from tag_lightning.diffusion import DDIM, LinearSchedule, Sampler

MEAN, VARIANCE = 0.7, 0.25
SCHEDULE = LinearSchedule(1000)


def moments_of_the_sampler(eta: float, num_steps: int) -> tuple[float, float]:
    """Exact mean and variance of what the sampler draws.

    Its samples are affine in its noise, so one row without noise gives the mean, and rows in which a single
    draw is 1 give the coefficients of all draws.
    """
    script = torch.cat([torch.zeros(num_steps, 1, dtype=torch.float64), torch.eye(num_steps, dtype=torch.float64)], 1)
    data = GaussianMixture([1], [[MEAN]], [VARIANCE])
    sampler = Sampler(exact_denoiser(data, SCHEDULE), DDIM(eta), num_steps)
    rows = sampler.sample(ScriptedSpace(script[:, :, None]), seed=0)[:, 0]
    return float(rows[0]), float((rows[1:] - rows[0]).square().sum())


def moments_in_closed_form(eta: float, timesteps: list[int]) -> tuple[float, float]:
    """Mean and variance carried through Eq. 12 of Song et al. 2021, from the standard normal."""
    powers = [*SCHEDULE.alphas_cumprod[timesteps].tolist(), 1.0]
    mean, variance = 0.0, 1.0
    for a, a_next in itertools.pairwise(powers):
        total = a * VARIANCE + 1 - a
        offset = mean - math.sqrt(a) * MEAN
        sigma2 = eta**2 * (1 - a_next) / (1 - a) * (1 - a / a_next)
        gain = (
            math.sqrt(a_next) * math.sqrt(a) * VARIANCE / total
            + math.sqrt(1 - a_next - sigma2) * math.sqrt(1 - a) / total
        )
        mean, variance = math.sqrt(a_next) * MEAN + gain * offset, gain**2 * variance + sigma2
    return mean, variance


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_moments_of_every_step_are_exact(eta: float, num_steps: int) -> None:
    timesteps = [round(1000 * k / num_steps) - 1 for k in range(num_steps, 0, -1)]
    assert moments_of_the_sampler(eta, num_steps) == pytest.approx(
        moments_in_closed_form(eta, timesteps), rel=1e-10, abs=1e-12
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_noise_of_an_accelerator_has_the_same_moments(eta: float) -> None:
    sampler = Sampler(exact_denoiser(GaussianMixture([1], [[MEAN]], [VARIANCE]), SCHEDULE), DDIM(eta), 50)
    mean, variance = moments_in_closed_form(eta, sampler.timesteps)
    space = DeviceNoiseSpace((1,), range(2000), dtype=torch.float64, clip_range=None)
    samples = sampler.sample(space, seed=0)[:, 0]
    assert stats.kstest(samples.numpy(), "norm", (mean, math.sqrt(variance))).pvalue > 1e-4


@pytest.mark.parametrize(("eta", "mean_error", "variance_error"), [(0.0, 0.003, 0.002), (1.0, 1e-5, 0.005)])
def test_all_timesteps_reach_the_data(eta: float, mean_error: float, variance_error: float) -> None:
    mean, variance = moments_of_the_sampler(eta, 1000)
    assert abs(mean - MEAN) < mean_error
    assert abs(variance - VARIANCE) < variance_error


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_error_of_the_variance_is_of_first_order_in_the_step(eta: float) -> None:
    errors = [abs(moments_of_the_sampler(eta, steps)[1] - VARIANCE) for steps in (25, 50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert 0.45 * coarse < fine < 0.65 * coarse


def test_no_steps_to_spare_collapses_onto_the_mean() -> None:
    """A single step returns E[x0 | x_T], which knows next to nothing of x_T."""
    mean, variance = moments_of_the_sampler(1.0, 1)
    assert mean == pytest.approx(MEAN, abs=2e-3)
    assert variance < 1e-5
