"""RED-Diff against its algorithm in plain lines, and against the regularised least squares that it converges to."""

import math
from collections.abc import Callable

import pytest
import torch
from gaussian_mixture import ExactTimePosterior, GaussianMixture
from problems import UNEVEN, ScriptedSpace, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    DPMSolverPlusPlus,
    Guidance,
    ImageSpace,
    LinearSchedule,
    Prediction,
    Run,
    Sampler,
)
from tag_lightning.guidance import (
    DPS,
    DSG,
    Condition,
    EpsilonScaling,
    FixedLengthSteps,
    JointCondition,
    MoreRedAS,
    REDDiff,
    TemporalAlignment,
    residual_norm,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
MATRIX, TARGET = random_vectors(1, 2, seed=5), random_vectors(3, 1, seed=6)
STEPS, WEIGHT, RATE = 5, 0.3, 0.05


class Linear(nn.Module):
    def forward(self, x0: Tensor) -> Tensor:
        return x0 @ MATRIX.T


MEASURED = Condition(Linear(), TARGET, residual_norm)


def by_the_book(script: Tensor, moved: Callable[[Tensor, int], Tensor] = lambda x, t: x) -> Tensor:
    """Algorithm 1 with the published optimiser and averages, its gradient by autograd; ``moved`` acts on ``x_t``."""
    noises, timesteps = list(script), [99, 79, 59, 39, 19]
    mu = torch.zeros_like(noises[0]).requires_grad_(True)
    optimizer = torch.optim.Adam([mu], lr=RATE, betas=(0.9, 0.99))
    for k, t in enumerate(timesteps):
        a = float(SCHEDULE.alphas_cumprod[t])
        alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
        # The run starts from noise of unit variance, which stands for sigma_T epsilon.
        x = moved((noises[k] if k == 0 else alpha * mu + sigma * noises[k]).detach(), t)
        epsilon = (x - alpha * mu.detach()) / sigma
        difference = (DENOISER(x, t).epsilon - epsilon).detach()
        data = (TARGET - mu @ MATRIX.T).square().mean(1).sum() / 2
        optimizer.zero_grad()
        (data + WEIGHT * sigma / alpha * (difference * mu).mean(1).sum()).backward()
        optimizer.step()
    return mu.detach()


def restored(script: Tensor, *before: Guidance, condition: Condition = MEASURED) -> Tensor:
    guidance = [*before, REDDiff(condition, WEIGHT, RATE)]
    return Sampler(DENOISER, DDIM(), STEPS, guidance).sample(ScriptedSpace(script), seed=0)


@pytest.fixture
def script() -> Tensor:
    """The noise of the run's start, then of every step: the solver's, which is discarded, and RED-Diff's."""
    return random_vectors(STEPS, 3, 2, seed=4)


def interleaved(script: Tensor) -> Tensor:
    start, *fresh = script
    discarded = torch.full_like(start, 1e3)
    return torch.stack([start, *(noise for drawn in fresh for noise in (discarded, drawn))])


def test_a_run_is_the_algorithm_in_plain_lines(script: Tensor) -> None:
    torch.testing.assert_close(restored(interleaved(script)), by_the_book(script), rtol=1e-10, atol=1e-10)


def test_a_move_of_the_noisy_sample_counts_as_its_noise(script: Tensor) -> None:
    predictor = ExactTimePosterior(UNEVEN, SCHEDULE)
    tag = TemporalAlignment(predictor, 0.2)

    def moved(x: Tensor, timestep: int) -> Tensor:
        return x + 0.2 * tag.time_linked_score(x, timestep)

    expected = by_the_book(script, moved)
    assert not torch.allclose(expected, by_the_book(script), atol=1e-4)
    torch.testing.assert_close(restored(interleaved(script), tag), expected, rtol=1e-10, atol=1e-10)


def test_entries_that_fill_a_measurement_up_do_not_count(script: Tensor) -> None:
    class Filled(Linear):
        def forward(self, x0: Tensor) -> Tensor:
            return torch.nn.functional.pad(super().forward(x0), (0, 3))

    target = torch.nn.functional.pad(TARGET, (0, 3))
    script, whole = interleaved(script), Condition(Filled(), target, residual_norm)
    filled = Condition(Filled(), target, residual_norm, num_measured=1)
    torch.testing.assert_close(restored(script, condition=filled), restored(script), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(restored(script, condition=whole), restored(script))


@pytest.mark.parametrize("timestep", [10, 99])
def test_at_one_noise_level_it_converges_to_regularised_least_squares(timestep: int) -> None:
    """For Gaussian data of mean m and variance v: ``(A^T A + w I)(mu - m) = A^T (y - A m)``.

    ``w = regularization / 2 (1 - a) / (a v + 1 - a)``, since one of two coordinates is measured and the exact denoiser
    leaves ``a v / (a v + 1 - a)`` of ``mu - m``. It is affine, so that the mean over the noise is its answer without
    noise.
    """
    mean, variance, a = random_vectors(2, seed=7), 0.3, float(SCHEDULE.alphas_cumprod[timestep])
    denoiser = exact_denoiser(GaussianMixture([1], [mean.tolist()], [variance]), SCHEDULE)
    guidance, step = REDDiff(MEASURED, WEIGHT, 0.2), step_at(SCHEDULE, vector_space(range(3)), timestep, None)
    mu = torch.zeros(3, 2, dtype=torch.float64)
    for _ in range(400):
        mu = guidance.updated(denoiser(math.sqrt(a) * mu, timestep).x0, step)
    weight = WEIGHT / 2 * (1 - a) / (a * variance + 1 - a)
    normal = MATRIX.T @ MATRIX + weight * torch.eye(2, dtype=torch.float64)
    expected = mean + torch.linalg.solve(normal, ((TARGET - mean @ MATRIX.T) @ MATRIX).T).T
    torch.testing.assert_close(mu, expected, rtol=0, atol=1e-4)


def test_without_the_denoiser_it_fits_the_measurement() -> None:
    mu = Sampler(DENOISER, DDIM(), 100, [REDDiff(MEASURED, 0.0)]).sample(vector_space(range(3)), seed=0)
    torch.testing.assert_close(mu @ MATRIX.T, TARGET, rtol=0, atol=0.05)


def test_the_estimate_is_drawn_to_the_clipped_clean_sample() -> None:
    space = ImageSpace((2,), range(3), dtype=torch.float64, clip_range=(-0.5, 0.5))
    step = step_at(SCHEDULE, space, 90, 80)
    answer = Prediction(torch.zeros(3, 2), 100 * torch.ones(3, 2, dtype=torch.float64))
    guidance = REDDiff(Condition(nn.Identity(), torch.zeros(3, 2), half_square), 1.0, 0.2)
    for _ in range(200):
        guidance.denoise(torch.zeros(3, 2), step, lambda x, timestep: answer)
        mu = guidance.updated(step.state["x0"], step)
    torch.testing.assert_close(mu, torch.full((3, 2), 0.25, dtype=torch.float64), rtol=0, atol=1e-4)


def test_whichever_solver_proposes() -> None:
    """The solver's noise comes from a stream of its own."""
    solvers = DDIM(1.0), DDIM(0.0), DPMSolverPlusPlus()
    runs = [Sampler(DENOISER, s, 8, [REDDiff(MEASURED)]).sample(vector_space(range(3)), 0) for s in solvers]
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=0, atol=0)


def test_below_its_interval_the_solver_goes_on() -> None:
    """From ``mu`` with the noise of the timestep reached."""
    stopped = Sampler(DENOISER, DDIM(0.0), 5, [REDDiff(MEASURED, stop=50)]).sample(vector_space(range(3)), 0)
    whole = Sampler(DENOISER, DDIM(0.0), 5, [REDDiff(MEASURED)]).sample(vector_space(range(3)), 0)
    assert not torch.allclose(stopped, whole, atol=1e-3)


def test_samples_do_not_interact() -> None:
    single = Condition(Linear(), TARGET[1:2], residual_norm)
    together = Sampler(DENOISER, DDIM(), 8, [REDDiff(MEASURED)]).sample(vector_space(range(3)), 0)
    alone = Sampler(DENOISER, DDIM(), 8, [REDDiff(single)]).sample(vector_space([1]), 0)
    torch.testing.assert_close(alone, together[1:2], rtol=1e-12, atol=1e-12)


def test_a_second_run_starts_afresh() -> None:
    sampler = Sampler(DENOISER, DDIM(), 8, [REDDiff(MEASURED)])
    first, second = (sampler.sample(vector_space(range(3)), 0) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_residual_enters_squared_and_any_other_condition_as_it_is() -> None:
    """By name, alone and within a joint condition."""
    squared, other = Condition(Linear(), TARGET, half_square), Condition(nn.Tanh(), random_vectors(3, 2), half_square)
    run = Run(conditions={"residual": MEASURED, "other": other})
    x0, step = random_vectors(3, 2, seed=9), step_at(SCHEDULE, vector_space(range(3)), 50, 40)
    for names, expected in (
        ("residual", squared.log_likelihood(x0)),
        (None, squared.log_likelihood(x0) + other.log_likelihood(x0)),
    ):
        torch.testing.assert_close(REDDiff(names).for_run(run).smoothed(x0, step), expected, rtol=1e-12, atol=0)
    joint = REDDiff(JointCondition([MEASURED, other])).smoothed(x0, step)
    torch.testing.assert_close(joint, REDDiff().for_run(run).smoothed(x0, step), rtol=0, atol=0)
    assert REDDiff(other).condition is other


def test_the_estimate_stays_in_the_space() -> None:
    class Flat(ImageSpace):
        def project(self, direction: Tensor) -> Tensor:
            return direction * torch.tensor([1.0, 0.0], dtype=direction.dtype)

    space = Flat((2,), range(3), dtype=torch.float64, clip_range=None)
    guidance, step = REDDiff(MEASURED), step_at(SCHEDULE, space, 50, 40)
    for _ in range(3):
        mu = guidance.updated(random_vectors(3, 2), step)
    assert mu[:, 1].abs().max() == 0 < mu[:, 0].abs().min()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regularization": -0.1}, "regularization must be a finite number of at least 0, got -0.1"),
        ({"regularization": math.inf}, "regularization must be a finite number of at least 0, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number above 0, got nan"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REDDiff(MEASURED, **arguments)


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ([DPS(MEASURED), REDDiff(MEASURED)], "REDDiff takes a step of its own and would discard that of DPS"),
        ([REDDiff(MEASURED), EpsilonScaling()], "steps from the prediction it sees, without the change by EpsilonSc"),
        ([REDDiff(MEASURED), DSG(MEASURED)], "REDDiff draws the noise of its steps, which DSG cannot choose"),
        ([REDDiff(MEASURED), MoreRedAS(nn.Identity())], "REDDiff and MoreRedAS both take the step"),
    ],
)
def test_company_that_it_cannot_keep_is_refused_in_one_line(guidance: list[Guidance], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        Sampler(DENOISER, DDIM(), 5, guidance)
    assert "\n" not in str(refused.value)


def test_recurrence_is_refused() -> None:
    with pytest.raises(ValueError, match="REDDiff cannot take a step several times; set recurrence to 1"):
        Sampler(DENOISER, DDIM(), 5, [REDDiff(MEASURED)], recurrence=2)


def test_a_run_without_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="REDDiff has no condition"):
        REDDiff().for_run(Run())


def test_it_cannot_be_wrapped_or_looked_ahead_with() -> None:
    with pytest.raises(ValueError, match="cannot wrap REDDiff, which takes a step of its own"):
        FixedLengthSteps(REDDiff(MEASURED))
    with pytest.raises(ValueError, match="cannot look ahead with REDDiff, which takes a step of its own"):
        TemporalAlignment(conditions=[REDDiff(MEASURED)])
