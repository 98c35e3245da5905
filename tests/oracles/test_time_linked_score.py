"""The time-linked score against Theorem 3.3 of arXiv 2510.11057 and against finite differences."""

import pytest
import torch
from gaussian_mixture import ExactTimePosterior, GaussianMixture, time_linked_score
from problems import TOY, UNEVEN, random_vectors, toy_schedule

from tag_lightning.diffusion import CosineSchedule, NoiseSchedule
from tag_lightning.guidance import TemporalAlignment

CASES = [
    pytest.param(TOY, toy_schedule(), 15.0, id="toy"),
    pytest.param(UNEVEN, CosineSchedule(40), 2.0, id="uneven"),
    pytest.param(GaussianMixture([1], [[0.0] * 7], [0.1]), CosineSchedule(25), 1.0, id="seven-dimensional"),
]


@pytest.mark.parametrize(("mixture", "schedule", "spread"), CASES)
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_gradient_of_the_exact_posterior_is_theorem_3_3(
    mixture: GaussianMixture, schedule: NoiseSchedule, spread: float, fraction: float
) -> None:
    x = random_vectors(50, mixture.means.shape[1], scale=spread)
    timestep = int(fraction * schedule.num_timesteps)
    measured = TemporalAlignment(ExactTimePosterior(mixture, schedule)).time_linked_score(x, timestep)
    expected = time_linked_score(mixture, schedule, x, timestep)
    torch.testing.assert_close(measured, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("mixture", "schedule", "spread"), CASES)
def test_it_is_the_slope_of_the_log_posterior(mixture: GaussianMixture, schedule: NoiseSchedule, spread: float) -> None:
    dim, timestep, h = mixture.means.shape[1], schedule.num_timesteps // 2, 1e-5
    x, posterior = random_vectors(20, dim, scale=spread), ExactTimePosterior(mixture, schedule)
    measured = TemporalAlignment(posterior).time_linked_score(x, timestep)
    for axis, shift in enumerate(torch.eye(dim, dtype=torch.float64) * h):
        slope = (posterior(x + shift) - posterior(x - shift))[:, timestep] / (2 * h)
        torch.testing.assert_close(measured[:, axis], slope, rtol=1e-5, atol=1e-6)


def test_it_leads_back_to_the_marginal_of_the_timestep() -> None:
    """Far outside every marginal but the noisiest, it points inwards for clean timesteps."""
    schedule = toy_schedule()
    x = torch.tensor([[14.0, 14.0]], dtype=torch.float64)
    score = TemporalAlignment(ExactTimePosterior(TOY, schedule)).time_linked_score(x, 60)
    towards_the_mode = schedule.alphas_cumprod[60].sqrt() * TOY.means[0] - x[0]
    assert torch.nn.functional.cosine_similarity(score[0], towards_the_mode, dim=0) > 0.99
