"""The oracle itself, held to scipy and to finite differences."""

import numpy as np
import pytest
import torch
from gaussian_mixture import ExactDenoiser, ExactTimePosterior, GaussianMixture, typical_nll
from problems import TOY, UNEVEN, random_vectors, toy_schedule
from scipy.stats import multivariate_normal

from tag_lightning.diffusion import CosineSchedule, LinearSchedule


@pytest.mark.parametrize("power", [1.0, 0.7, 0.01])
def test_density_is_that_of_scipy(power: float) -> None:
    x = random_vectors(20, 2, scale=2)
    expected = sum(
        float(weight)
        * multivariate_normal(np.sqrt(power) * mean.numpy(), (power * float(variance) + 1 - power) * np.eye(2)).pdf(x)
        for weight, mean, variance in zip(UNEVEN.weights, UNEVEN.means, UNEVEN.variances, strict=True)
    )
    np.testing.assert_allclose(UNEVEN.log_density(x, power).exp(), expected, rtol=1e-12)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.01])
def test_score_is_the_slope_of_the_log_density(power: float) -> None:
    x, h = random_vectors(20, 2, scale=2), 1e-5
    for axis, shift in enumerate(torch.eye(2, dtype=torch.float64) * h):
        slope = (UNEVEN.log_density(x + shift, power) - UNEVEN.log_density(x - shift, power)) / (2 * h)
        torch.testing.assert_close(UNEVEN.score(x, power)[:, axis], slope, rtol=1e-6, atol=1e-7)


def test_powers_broadcast_over_samples_and_timesteps() -> None:
    x, powers = random_vectors(4, 2), torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    table = UNEVEN.log_density(x[:, None, :], powers)
    assert table.shape == (4, 3)
    torch.testing.assert_close(table[:, 1], UNEVEN.log_density(x, 0.5))
    torch.testing.assert_close(UNEVEN.score(x[:, None, :], powers)[:, 2], UNEVEN.score(x, 0.1))


def test_samples_have_the_moments_of_the_mixture() -> None:
    x = UNEVEN.sample(100_000, torch.Generator().manual_seed(0))
    mean = (UNEVEN.weights[:, None] * UNEVEN.means).sum(0)
    second = (UNEVEN.weights[:, None] * (UNEVEN.means**2 + UNEVEN.variances[:, None])).sum(0)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x.square().mean(0), second, rtol=0.02, atol=0)


def test_exact_denoiser_is_the_conditional_mean_of_the_noise() -> None:
    schedule, data = CosineSchedule(50), GaussianMixture([1], [[2.0]], [0.3])
    x = random_vectors(6, 1)
    timesteps = torch.tensor([0, 7, 20, 30, 42, 49])
    a = schedule.alphas_cumprod[timesteps][:, None]
    expected = (1 - a).sqrt() * (x - a.sqrt() * 2.0) / (a * 0.3 + 1 - a)
    torch.testing.assert_close(ExactDenoiser(data, schedule)(x, timesteps), expected)


def test_posterior_is_normalised_and_keeps_the_dtype_of_its_input() -> None:
    posterior = ExactTimePosterior(UNEVEN, LinearSchedule(30))
    torch.testing.assert_close(posterior(random_vectors(5, 2)).exp().sum(1), torch.ones(5, dtype=torch.float64))
    assert posterior(torch.zeros(1, 2)).dtype == torch.float32


def test_typical_nll_is_the_loss_on_timesteps_drawn_from_the_posterior() -> None:
    """Bayes: averaged over t and x, the loss is the posterior's own entropy."""
    schedule, generator = toy_schedule(), torch.Generator().manual_seed(0)
    timesteps = torch.randint(100, (10_000,), generator=generator)
    x0 = TOY.sample(10_000, generator)
    epsilon = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    log_posterior = ExactTimePosterior(TOY, schedule)(schedule.add_noise(x0, epsilon, timesteps))
    entropy = -(log_posterior.exp() * log_posterior).sum(1).mean()
    nll = typical_nll(TOY, schedule, 200, generator)
    assert nll.shape == (100,)
    assert abs(nll.mean() - entropy) < 0.03
