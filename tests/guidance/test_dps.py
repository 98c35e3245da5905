"""DPS on a linear-Gaussian problem, where its gradient has a closed form."""

import math

import pytest
import torch
from gaussian_mixture import GaussianMixture
from problems import UNEVEN, ScriptedSpace, exact_denoiser, proposed, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, ImageSpace, LinearSchedule, Proposal, Sampler, Step
from tag_lightning.guidance import DPS, Condition, JointCondition, residual_norm

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
MEAN, VARIANCE, SCALE = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), 0.3, 0.7
DATA = GaussianMixture([1], [MEAN.tolist()], [VARIANCE])
MATRIX = random_vectors(2, 3, seed=5)
TARGET = random_vectors(6, 2, seed=6)


class Linear(nn.Module):
    def forward(self, x0: Tensor) -> Tensor:
        return x0 @ MATRIX.T


def half_square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum(1) / 2


CONDITION = Condition(Linear(), TARGET, half_square)


def closed_form_gradient(x: Tensor, timestep: int) -> Tensor:
    """``-gain A^T (A x0_hat - y)``, with ``x0_hat`` the regression of x0 on x_t."""
    a = float(SCHEDULE.alphas_cumprod[timestep])
    gain = math.sqrt(a) * VARIANCE / (a * VARIANCE + 1 - a)
    x0 = MEAN + gain * (x - math.sqrt(a) * MEAN)
    return -gain * (x0 @ MATRIX.T - TARGET) @ MATRIX


def shift_of(guidance: DPS, x: Tensor, step: Step) -> Tensor:
    """What ``propose`` adds, computed as the sampler does."""
    leaf = x.detach().requires_grad_(True)
    prediction = exact_denoiser(DATA, SCHEDULE)(leaf, step.timestep)
    nothing = Proposal(torch.zeros_like(x), 0.0, torch.zeros_like(x))
    return guidance.propose(nothing, leaf, prediction, step).sample


@pytest.mark.parametrize("timestep", [10, 50, 99])
def test_shift_is_the_closed_form(timestep: int) -> None:
    x, step = random_vectors(6, 3), step_at(SCHEDULE, vector_space(range(6), 3), timestep, timestep - 10)
    ratio = step.next_alpha_bar / step.alpha_bar
    expected = SCALE * math.sqrt(ratio) * closed_form_gradient(x, timestep)
    torch.testing.assert_close(shift_of(DPS(CONDITION, SCALE), x, step), expected, rtol=1e-9, atol=1e-9)


def test_shift_is_the_slope_of_the_log_likelihood_through_a_curved_denoiser() -> None:
    denoiser, x, h = exact_denoiser(UNEVEN, SCHEDULE), random_vectors(6, 2), 1e-5
    condition = Condition(nn.Tanh(), TARGET, residual_norm)
    step = step_at(SCHEDULE, vector_space(range(6)), 30, 20)
    shift = DPS(condition, SCALE).look_ahead(x, step, denoiser)
    for axis, move in enumerate(torch.eye(2, dtype=torch.float64) * h):
        above, below = (condition.log_likelihood(denoiser(x + sign * move, 30).x0) for sign in (1, -1))
        torch.testing.assert_close(shift[:, axis], SCALE * (above - below) / (2 * h), rtol=1e-6, atol=1e-7)


def test_looking_ahead_moves_the_sample_itself() -> None:
    x, step = random_vectors(6, 3), step_at(SCHEDULE, vector_space(range(6), 3), 50, 40)
    moved = DPS(CONDITION, SCALE).look_ahead(x, step, exact_denoiser(DATA, SCHEDULE))
    torch.testing.assert_close(moved, SCALE * closed_form_gradient(x, 50), rtol=1e-9, atol=1e-9)


def test_two_whole_steps_by_hand() -> None:
    script = random_vectors(2, 6, 3)
    sampler = Sampler(exact_denoiser(DATA, SCHEDULE), DDIM(eta=1.0), 2, [DPS(CONDITION, SCALE)])
    measured = sampler.sample(ScriptedSpace(script), seed=0)
    x, powers = script[0], [*SCHEDULE.alphas_cumprod[[99, 49]].tolist(), 1.0]
    for k, timestep in enumerate((99, 49)):
        step = step_at(SCHEDULE, vector_space(range(6), 3), timestep, (49, None)[k])
        transition = proposed(DDIM(eta=1.0), exact_denoiser(DATA, SCHEDULE)(x, timestep), step)
        noise = script[1] if k == 0 else torch.zeros_like(x)
        shift = SCALE * math.sqrt(powers[k + 1] / powers[k]) * closed_form_gradient(x, timestep)
        x = transition.mean + transition.std * noise + shift
    torch.testing.assert_close(measured, x, rtol=1e-9, atol=1e-9)


def test_guidance_reads_the_unclipped_estimate() -> None:
    """Clipping would stop the gradient wherever the estimate leaves the range."""
    script = 100 * torch.ones(1, 6, 3, dtype=torch.float64)
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x0: Tensor) -> Tensor:
            seen.append(x0.detach())
            return x0 @ MATRIX.T

    guidance = DPS(Condition(Spy(), TARGET, half_square))
    sampler = Sampler(exact_denoiser(DATA, SCHEDULE), DDIM(), 1, [guidance])
    sampler.sample(ScriptedSpace(script, clip_range=(-1, 1)), seed=0)
    assert seen[0].abs().max() > 1


def test_guidance_approaches_its_target() -> None:
    target = torch.full((64, 2), 0.8, dtype=torch.float64)
    condition = Condition(nn.Identity(), target, half_square)
    denoiser, space = exact_denoiser(UNEVEN, SCHEDULE), vector_space(range(64))
    plain, guided = (Sampler(denoiser, DDIM(), 50, [DPS(condition, scale)]).sample(space, 0) for scale in (0.0, 1.0))
    assert condition.log_likelihood(guided).mean() > 0.5 * condition.log_likelihood(plain).mean()


def test_scale_zero_is_unguided() -> None:
    denoiser, space = exact_denoiser(DATA, SCHEDULE), vector_space(range(6), 3)
    unguided = Sampler(denoiser, DDIM(), 10).sample(space, 0)
    guided = Sampler(denoiser, DDIM(), 10, [DPS(CONDITION, 0.0)]).sample(space, 0)
    torch.testing.assert_close(guided, unguided, rtol=0, atol=0)


def test_samples_of_a_batch_are_guided_apart() -> None:
    """Each by its own target."""
    x, space = random_vectors(6, 3), vector_space(range(6), 3)
    together = shift_of(DPS(CONDITION), x, step_at(SCHEDULE, space, 50, 40))
    alone = shift_of(DPS(Condition(Linear(), TARGET[2:3], half_square)), x[2:3], step_at(SCHEDULE, space, 50, 40))
    torch.testing.assert_close(together[2:3], alone)


def test_shift_stays_in_the_space() -> None:
    class Flat(ImageSpace):
        def project(self, direction: Tensor) -> Tensor:
            return direction * torch.tensor([1.0, 0.0, 1.0], dtype=direction.dtype)

    x = random_vectors(6, 3)
    free, flat = (
        shift_of(DPS(CONDITION), x, step_at(SCHEDULE, space, 50, 40))
        for space in (vector_space(range(6), 3), Flat((3,), range(6)))
    )
    torch.testing.assert_close(flat[:, [0, 2]], free[:, [0, 2]])
    assert flat[:, 1].abs().max() == 0 < free[:, 1].abs().min()


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be a finite number of at least 0"):
        DPS(CONDITION, scale)


def test_joint_conditions_add_up() -> None:
    other = Condition(nn.Tanh(), random_vectors(6, 3, seed=8), residual_norm)
    x, step = random_vectors(6, 3), step_at(SCHEDULE, vector_space(range(6), 3), 50, 40)
    joint = JointCondition([CONDITION, other])
    torch.testing.assert_close(
        joint.log_likelihood(x), CONDITION.log_likelihood(x) + other.log_likelihood(x), rtol=1e-12, atol=0
    )
    apart = shift_of(DPS(CONDITION), x, step) + shift_of(DPS(other), x, step)
    torch.testing.assert_close(shift_of(DPS(joint), x, step), apart, rtol=1e-9, atol=1e-9)


def test_joining_no_conditions_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one condition"):
        JointCondition([])
