"""The reverse loop against the schedulers of diffusers, on the same noise."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from problems import UNEVEN, ScriptedSpace, exact_denoiser, proposed, random_vectors, step_at, vector_space
from torch import Tensor

from tag_lightning.diffusion import DDIM, CosineSchedule, Denoiser, LinearSchedule, NoiseSchedule, Sampler

TOTAL, NUM_STEPS = 100, 20


def published_scheduler(schedule: NoiseSchedule, clip: bool) -> DDIMScheduler:
    scheduler = DDIMScheduler(TOTAL, timestep_spacing="trailing", clip_sample=clip, set_alpha_to_one=True)
    scheduler.alphas_cumprod = schedule.alphas_cumprod
    scheduler.set_timesteps(NUM_STEPS)
    return scheduler


def published_sample(denoiser: Denoiser, script: Tensor, eta: float, clip: bool) -> Tensor:
    """The loop as a user of diffusers writes it."""
    scheduler, noises = published_scheduler(denoiser.schedule, clip), list(script)
    x = noises.pop(0)
    for timestep in scheduler.timesteps.tolist():
        epsilon = denoiser.network(x, torch.full((len(x),), timestep))
        noise = noises.pop(0) if eta > 0 and noises else torch.zeros_like(x)
        x = scheduler.step(
            epsilon, timestep, x, eta=eta, use_clipped_model_output=True, variance_noise=noise if eta > 0 else None
        ).prev_sample
    return x


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    "schedule", [LinearSchedule(TOTAL, 1e-4, 0.1), CosineSchedule(TOTAL)], ids=["linear", "cosine"]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)], ids=["f64", "f32"])
def test_samples_are_those_of_diffusers(
    schedule: NoiseSchedule, eta: float, clip: bool, dtype: torch.dtype, tolerance: float
) -> None:
    denoiser = exact_denoiser(UNEVEN, schedule)
    script = random_vectors(NUM_STEPS, 16, 2).to(dtype)
    space = ScriptedSpace(script, clip_range=(-1.0, 1.0) if clip else None)
    ours = Sampler(denoiser, DDIM(eta), NUM_STEPS).sample(space, seed=0)
    theirs = published_sample(denoiser, script, eta, clip)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert clip == bool((ours.abs() <= 1).all())


def test_timesteps_are_trailing() -> None:
    """For divisors of T; elsewhere theirs accumulate rounding errors, up to one timestep too many."""
    schedule = LinearSchedule(TOTAL)
    scheduler = published_scheduler(schedule, clip=False)
    for num_steps in (1, 2, 4, 5, 10, 20, 25, 50, 100):
        scheduler.set_timesteps(num_steps)
        sampler = Sampler(exact_denoiser(UNEVEN, schedule), DDIM(), num_steps)
        assert sampler.timesteps == scheduler.timesteps.tolist()


@pytest.mark.parametrize("timestep", [1, 50, 99])
def test_eta_one_is_the_posterior_of_ddpm(timestep: int) -> None:
    """Ho et al. 2020, Eq. 7: mean and variance of x_{t-1} given x_t and x0."""
    schedule = LinearSchedule(TOTAL, 1e-4, 0.1)
    a, a_next = schedule.alphas_cumprod[timestep].item(), schedule.alphas_cumprod[timestep - 1].item()
    alpha, x = a / a_next, random_vectors(8, 2)
    denoiser = exact_denoiser(UNEVEN, schedule)
    prediction = denoiser(x, timestep)
    mean = math.sqrt(a_next) * (1 - alpha) / (1 - a) * prediction.x0 + math.sqrt(alpha) * (1 - a_next) / (1 - a) * x
    step = step_at(schedule, vector_space(range(8)), timestep, timestep - 1)
    transition = proposed(DDIM(1.0), prediction, step)
    torch.testing.assert_close(transition.mean, mean, rtol=1e-9, atol=1e-9)
    assert transition.std == pytest.approx(math.sqrt((1 - a_next) / (1 - a) * (1 - alpha)))
