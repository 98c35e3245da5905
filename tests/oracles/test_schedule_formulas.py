"""Schedules and Tweedie's formula against independent formulas and implementations."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from gaussian_mixture import GaussianMixture
from problems import UNEVEN, exact_denoiser, random_vectors

from tag_lightning.diffusion import CosineSchedule, LinearSchedule, NoiseSchedule, PolynomialSchedule


def test_linear_is_the_product_of_what_each_beta_leaves() -> None:
    powers = LinearSchedule(1000).alphas_cumprod.numpy()
    kept = 1.0
    for timestep in range(1000):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * timestep / 999)
        assert powers[timestep] == pytest.approx(kept, rel=1e-12)


def test_cosine_follows_its_formula_until_a_beta_is_capped() -> None:
    powers = CosineSchedule(1000).alphas_cumprod.numpy()

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [f((t + 1) / 1000) / f(0) for t in range(999)]
    np.testing.assert_allclose(powers[:999], expected, rtol=1e-10)
    assert powers[999] == pytest.approx(expected[-1] * 0.001, rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        (LinearSchedule(1000), DDPMScheduler(1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
        (LinearSchedule(100, 1e-4, 0.1), DDPMScheduler(100, beta_schedule="linear", beta_start=1e-4, beta_end=0.1)),
        (CosineSchedule(1000), DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")),
        (CosineSchedule(40), DDPMScheduler(40, beta_schedule="squaredcos_cap_v2")),
    ],
    ids=["linear-1000", "linear-100", "cosine-1000", "cosine-40"],
)
def test_schedules_are_those_of_diffusers(schedule: NoiseSchedule, published: DDPMScheduler) -> None:
    """Theirs is computed in float32, whose rounding a product of a thousand factors accumulates."""
    torch.testing.assert_close(schedule.alphas_cumprod.float(), published.alphas_cumprod, rtol=3e-5, atol=5e-7)


def test_polynomial_has_the_published_values_of_edm() -> None:
    powers = PolynomialSchedule(1000).alphas_cumprod
    published = {
        1: "0.999988",
        10: "0.99979",
        100: "0.98009",
        250: "0.87890",
        500: "0.56250",
        750: "0.19141",
        900: "0.03611",
        990: "0.000406",
        1000: "0.000010004",
    }
    for level, printed in published.items():
        decimals = len(printed) - 2
        assert f"{powers[level - 1]:.{decimals}f}" == printed


def test_polynomial_ends_at_the_published_log_signal_to_noise_ratio() -> None:
    last = PolynomialSchedule(1000).alphas_cumprod[-1]
    assert math.log((1 - last) / last) == pytest.approx(11.51252, abs=2e-5)


def test_polynomial_follows_its_formula_until_a_step_is_limited() -> None:
    precision = 1e-4
    powers = PolynomialSchedule(200, power=3.0, precision=precision).alphas_cumprod.numpy()
    u = np.arange(1, 200) / 200
    np.testing.assert_allclose(powers[:-1], (1 - 2 * precision) * (1 - u**3) ** 2 + precision, rtol=1e-10)
    assert powers[-1] > precision


@pytest.mark.parametrize("timestep", [0, 30, 99])
def test_tweedie_recovers_the_posterior_mean(timestep: int) -> None:
    """For one Gaussian, the mean of x0 given x_t is linear regression."""
    schedule = LinearSchedule(100)
    mean, variance = torch.tensor([0.5, -1.0], dtype=torch.float64), 0.3
    data = GaussianMixture([1], [mean.tolist()], [variance])
    x, a = random_vectors(8, 2), float(schedule.alphas_cumprod[timestep])
    gain = math.sqrt(a) * variance / (a * variance + 1 - a)
    expected = mean + gain * (x - math.sqrt(a) * mean)
    prediction = exact_denoiser(data, schedule)(x, timestep)
    torch.testing.assert_close(prediction.x0, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("timestep", [1, 50, 99])
def test_tweedie_of_a_mixture_agrees_with_the_score(timestep: int) -> None:
    schedule = LinearSchedule(100)
    x, a = random_vectors(8, 2), float(schedule.alphas_cumprod[timestep])
    prediction = exact_denoiser(UNEVEN, schedule)(x, timestep)
    score = UNEVEN.score(x, a)
    torch.testing.assert_close(-prediction.epsilon / math.sqrt(1 - a), score)
    torch.testing.assert_close(prediction.x0, (x + (1 - a) * score) / math.sqrt(a), rtol=1e-9, atol=1e-9)
