"""DPM-Solver++ against the scheduler of diffusers, on the same timesteps and noise, and against its order."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from problems import UNEVEN, ScriptedSpace, exact_denoiser, random_vectors, vector_space
from torch import Tensor

from tag_lightning.diffusion import (
    DDIM,
    CosineSchedule,
    Denoiser,
    DPMSolverPlusPlus,
    DPMSolverPlusPlusSDE,
    LinearSchedule,
    NoiseSchedule,
    Recurrence,
    Sampler,
    Solver,
)

TOTAL, NUM_STEPS = 100, 20


def published_sample(denoiser: Denoiser, script: Tensor, algorithm: str, timesteps: list[int]) -> Tensor:
    """The loop as a user of diffusers writes it."""
    scheduler = DPMSolverMultistepScheduler(
        TOTAL, solver_order=2, algorithm_type=algorithm, solver_type="midpoint", final_sigmas_type="zero"
    )
    scheduler.alphas_cumprod = denoiser.schedule.alphas_cumprod.float()
    scheduler.set_timesteps(timesteps=timesteps)
    # The scheduler interpolates its noise levels in float32; ours are exact.
    levels = denoiser.schedule.alphas_cumprod[timesteps]
    scheduler.sigmas = torch.cat((((1 - levels) / levels).sqrt(), torch.zeros(1, dtype=torch.float64)))
    noises = list(script)
    x = noises.pop(0)
    for timestep in timesteps:
        epsilon = denoiser.network(x, torch.full((len(x),), timestep))
        noise = noises.pop(0) if noises else torch.zeros_like(x)
        x = scheduler.step(epsilon, timestep, x, variance_noise=noise).prev_sample
    return x


@pytest.mark.parametrize(
    ("solver", "algorithm"), [(DPMSolverPlusPlus(), "dpmsolver++"), (DPMSolverPlusPlusSDE(), "sde-dpmsolver++")]
)
@pytest.mark.parametrize(
    "schedule", [LinearSchedule(TOTAL, 1e-4, 0.1), CosineSchedule(TOTAL)], ids=["linear", "cosine"]
)
def test_samples_are_those_of_diffusers(schedule: NoiseSchedule, solver: Solver, algorithm: str) -> None:
    denoiser = exact_denoiser(UNEVEN, schedule)
    script = random_vectors(NUM_STEPS, 16, 2)
    sampler = Sampler(denoiser, solver, NUM_STEPS)
    ours = sampler.sample(ScriptedSpace(script), seed=0)
    theirs = published_sample(denoiser, script, algorithm, sampler.timesteps)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs.double(), rtol=2e-5, atol=2e-5)


def test_twenty_steps_come_closer_to_the_ode_than_those_of_ddim() -> None:
    schedule = LinearSchedule(1000)
    denoiser, space = exact_denoiser(UNEVEN, schedule), vector_space(range(200))
    exact = Sampler(denoiser, DDIM(0.0), 1000).sample(space, 0)
    errors = [
        (Sampler(denoiser, s, 20).sample(space, 0) - exact).abs().mean() for s in (DDIM(0.0), DPMSolverPlusPlus())
    ]
    assert errors[1] < 0.6 * errors[0]


def test_the_stochastic_variant_keeps_the_marginal_variance_of_pure_noise() -> None:
    """Where x0 is known to be zero, every step's samples are noise of variance 1 - alphas_cumprod."""

    class Nothing(torch.nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            return x / (1 - schedule.alphas_cumprod[timesteps]).sqrt()[:, None]

    schedule = LinearSchedule(TOTAL, 1e-4, 0.1)
    variances: list[tuple[float, float]] = []
    sampler = Sampler(Denoiser(Nothing(), schedule, "epsilon"), DPMSolverPlusPlusSDE(), 10)
    space = vector_space(range(500), dim=20)
    sampler.sample(space, 0, [lambda x, step: variances.append((float(x.var()), 1 - step.alpha_bar))])
    for measured, expected in variances[1:]:
        # The first samples have unit variance rather than 1 - alphas_cumprod[T-1], which is a little less.
        assert measured == pytest.approx(expected, rel=0.05)


def test_repeated_steps_leave_the_history_of_the_steps_before() -> None:
    """With an exact x0 the multistep rule is exact, whatever is repeated."""
    target = random_vectors(6, 2)

    class Known(torch.nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            a = schedule.alphas_cumprod[timesteps][:, None]
            return (x - a.sqrt() * target) / (1 - a).sqrt()

    schedule = LinearSchedule(TOTAL, 1e-4, 0.1)
    sampler = Sampler(Denoiser(Known(), schedule, "epsilon"), DPMSolverPlusPlus(), 10, recurrence=Recurrence(3, 60, 20))
    torch.testing.assert_close(sampler.sample(vector_space(range(6)), 0), target)
