"""Denoising at the level that a sample has: against the Gaussian posterior, at its limits, in company."""

import math
from collections.abc import Callable

import pytest
import torch
from class_mixture import ClassMixture
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import UNEVEN, exact_denoiser, half_square, random_vectors, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    DPMSolverPlusPlus,
    Guidance,
    LinearSchedule,
    Predict,
    Prediction,
    Run,
    SampleNoise,
    Sampler,
    Solver,
    Step,
)
from tag_lightning.guidance import (
    CFG,
    DPS,
    Condition,
    Corruption,
    KnownNoise,
    NoiseLevel,
    PredictedNoise,
    RegressedNoise,
    Retiming,
    TemporalAlignment,
    TrackedNoise,
)
from tag_lightning.guidance.noise_level import retimed

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
POWERS = SCHEDULE.alphas_cumprod
MEAN, VARIANCE = torch.tensor([0.7, -1.2], dtype=torch.float64), 0.3


class Gaussian(nn.Module):
    """The exact noise predictor of data ``N(MEAN, VARIANCE I)``."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        power = POWERS[timesteps][:, None]
        return (1 - power).sqrt() * (x - power.sqrt() * MEAN) / (power * VARIANCE + 1 - power)


class Given(NoiseLevel):
    """A level that is written down."""

    def __init__(self, log_ratio: float | Tensor) -> None:
        self.value = log_ratio

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return torch.as_tensor(self.value, dtype=x.dtype).expand(len(x))


def step_at(timestep: int, count: int = 6) -> Step:
    space, power = vector_space(range(count)), float(POWERS[timestep])
    source = SampleNoise(0, range(count), stream=1)
    levels = [(power, 1.0)]
    return Step(0, timestep, None, power, 1.0, len(POWERS), levels, space, source, alphas_cumprod=POWERS)


def ratio_between(here: int, there: int) -> float:
    """``r`` of samples at ``here`` that have the signal-to-noise ratio of ``there``."""
    odds = (1 - POWERS) / POWERS
    return float((odds[there] / odds[here]).sqrt())


def sampled(*guidance: Guidance, solver: Solver | None = None, count: int = 6) -> Tensor:
    denoiser = exact_denoiser(UNEVEN, SCHEDULE)
    return Sampler(denoiser, solver or DDIM(0.0), 10, guidance).sample(vector_space(range(count)), seed=0)


@pytest.mark.parametrize(("here", "there"), [(40, 40), (40, 55), (40, 20), (90, 99), (5, 0)])
def test_the_prediction_is_the_posterior_of_the_disturbed_sample(here: int, there: int) -> None:
    """Bayes by hand: ``x = sqrt(a) x0 + r sqrt(1 - a) epsilon`` with Gaussian ``x0``."""
    denoiser, ratio, power = Denoiser(Gaussian(), SCHEDULE, "epsilon"), ratio_between(here, there), float(POWERS[here])
    x = random_vectors(6, 2, scale=2.0)
    prediction = Retiming(Given(math.log(ratio))).denoise(x, step_at(here), denoiser)
    noise = ratio**2 * (1 - power)
    x0 = MEAN + math.sqrt(power) * VARIANCE / (power * VARIANCE + noise) * (x - math.sqrt(power) * MEAN)
    torch.testing.assert_close(prediction.x0, x0)
    torch.testing.assert_close(prediction.epsilon, (x - math.sqrt(power) * x0) / math.sqrt(noise))


@pytest.mark.parametrize("here", [0, 30, 99])
def test_every_level_of_the_schedule_is_found(here: int) -> None:
    every = torch.arange(100)
    ratios = torch.tensor([ratio_between(here, t) for t in range(100)], dtype=torch.float64)
    timesteps, scale = retimed(ratios.log(), step_at(here))
    assert torch.equal(timesteps, every)
    torch.testing.assert_close(scale, (POWERS / POWERS[here]).sqrt())


@settings(deadline=None, max_examples=100)
@given(log_ratio=st.floats(-5, 5), here=st.integers(0, 99))
def test_the_nearest_level_is_chosen_and_no_sample_outgrows_it(log_ratio: float, here: int) -> None:
    (timestep,), (scale,) = retimed(torch.tensor([log_ratio], dtype=torch.float64), step_at(here))
    snr = 0.5 * POWERS.logit()
    sought = snr[here] - log_ratio
    assert (snr[timestep] - sought).abs() <= (snr - sought).abs().min() + 1e-12
    noise, signal = scale * math.exp(log_ratio) * (1 - POWERS[here]).sqrt(), scale * POWERS[here].sqrt()
    assert noise <= (1 - POWERS[timestep]).sqrt() * (1 + 1e-9)
    assert signal <= POWERS[timestep].sqrt() * (1 + 1e-9)


def test_the_right_level_changes_nothing() -> None:
    torch.testing.assert_close(sampled(Retiming(Given(0.0))), sampled(), rtol=0, atol=0)
    torch.testing.assert_close(sampled(Retiming(KnownNoise(0.0))), sampled(), rtol=0, atol=0)


def test_outside_its_interval_it_does_not_act() -> None:
    torch.testing.assert_close(sampled(Retiming(Given(0.5), stop=99, start=99)), sampled(Only(99, 0.5)))
    assert not torch.allclose(sampled(Retiming(Given(0.5))), sampled())


class Only(Guidance):
    """Retimes at one timestep, by hand."""

    def __init__(self, timestep: int, log_ratio: float) -> None:
        super().__init__(start=timestep, stop=timestep)
        self.log_ratio = log_ratio

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        # At the noisy end no timestep has more noise, so the noise is made to fit.
        return predict(math.exp(-self.log_ratio) * x, torch.full((len(x),), step.timestep))


def test_whoever_knows_the_noise_repairs_a_corrupted_gaussian() -> None:
    """Corruption makes every coordinate too wide; retiming takes the excess out."""
    denoiser, count = Denoiser(Gaussian(), SCHEDULE, "epsilon"), 600

    def variance(*guidance: Guidance) -> float:
        sampler = Sampler(denoiser, DDIM(0.0), 50, guidance)
        return float(sampler.sample(vector_space(range(count)), 0).var(0).mean())

    # Of 600 samples in two coordinates the variance is known to 4 %; 50 steps alone leave it 7 % too small.
    broken, retiming = Corruption(0.1, stop=20), Retiming(KnownNoise(0.1), stop=20)
    assert variance(broken) > 1.4 * VARIANCE
    assert abs(variance(broken, retiming) - VARIANCE) < 0.15 * VARIANCE


def test_a_multistep_solver_starts_from_the_retimed_sample_as_well() -> None:
    """The first step of DPM-Solver++ is that of DDIM."""
    level = Retiming(Given(0.2))
    first = []

    class Watch(Guidance):
        def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
            first.append(x) if step.index == 1 else None
            return x

    for solver in (DDIM(0.0), DPMSolverPlusPlus()):
        sampled(Watch(), level, solver=solver)
    torch.testing.assert_close(first[0], first[1])
    assert not torch.allclose(first[0], torch.zeros_like(first[0]))


def test_gradient_methods_beside_it_follow_the_prediction_for_the_sample_as_it_is() -> None:
    condition = Condition(nn.Identity(), random_vectors(6, 2, seed=3), half_square)
    denoiser = exact_denoiser(UNEVEN, SCHEDULE)

    def once(*guidance: Guidance) -> Tensor:
        return Sampler(denoiser, DDIM(0.0), 1, guidance).sample(vector_space(range(6)), 0)

    retiming, dps = Retiming(Given(-0.3)), DPS(condition, 0.5)
    shift = once(dps) - once()
    for both in ([retiming, dps], [dps, retiming]):
        torch.testing.assert_close(once(*both), once(retiming) + shift)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    network = Level()
    all_six, three = (sampled(Retiming(RegressedNoise(network)), count=count) for count in (6, 3))
    torch.testing.assert_close(all_six[:3], three)


class Level(nn.Module):
    """Some level that depends on sample and timestep."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return 0.1 * x.sum(1) * timesteps / 100


def test_the_regressor_comes_from_the_run() -> None:
    network = Level()
    left_open = Retiming(start=80)
    ready = left_open.for_run(Run(noise_level=network))
    torch.testing.assert_close(sampled(ready), sampled(Retiming(RegressedNoise(network), start=80)), rtol=0, atol=0)
    with pytest.raises(ValueError, match="RegressedNoise has no network: pass network"):
        left_open.for_run(Run())
    with pytest.raises(ValueError, match="RegressedNoise has no network"):
        sampled(left_open)


def test_a_level_that_is_not_a_number_is_reported() -> None:
    with pytest.raises(FloatingPointError, match="the noise level returned NaN or infinity at timestep 99"):
        sampled(Retiming(Given(math.nan)))


CLASSES = ClassMixture([[2.0, 0.5], [-1.0, 1.5]], 0.3, SCHEDULE)
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


class Noted(NoiseLevel):
    """A level that depends on the sample, noting the steps it is asked in."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        self.asked.append((step.index, step.pass_index))
        return 0.1 * x.sum(1).tanh()


def of_classes(*guidance: Guidance, denoiser: Denoiser | None = None, recurrence: int = 1) -> Tensor:
    sampler = Sampler(denoiser or CLASSES.denoiser(), DDIM(0.0), 8, guidance, recurrence)
    return sampler.sample(CLASSES.space(LABELS), 0)


@pytest.mark.parametrize("build", [lambda: TrackedNoise(Noted()), PredictedNoise, Noted])
def test_a_contrast_that_changes_nothing_changes_no_level(build: Callable[[], NoiseLevel]) -> None:
    torch.testing.assert_close(of_classes(Retiming(build()), CFG(1.0)), of_classes(Retiming(build())))


def test_both_halves_of_a_contrast_are_at_one_level() -> None:
    """The denoiser is asked for the level, then with and without the class."""
    denoiser, told = CLASSES.denoiser(), list[Tensor]()
    denoiser.network.register_forward_pre_hook(lambda _, asked: told.append(asked[1]))
    of_classes(Retiming(PredictedNoise()), CFG(3.0), denoiser=denoiser)
    heard = denoiser.network.heard
    assert heard == [LABELS.tolist(), LABELS.tolist(), [2] * 6] * 8
    levels, conditional, unconditional = told[0::3], told[1::3], told[2::3]
    assert all(torch.equal(a, b) for a, b in zip(conditional, unconditional, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(levels, conditional, strict=True))


def test_samples_that_were_moved_and_steps_taken_again_have_levels_of_their_own() -> None:
    level = Noted()
    dps = DPS(Condition(nn.Identity(), random_vectors(6, 2, seed=3), half_square), 0.1)
    ahead = TemporalAlignment(nn.Linear(2, 100).double(), 0.1, [dps])
    of_classes(Retiming(level), CFG(2.0), ahead)
    assert level.asked == [(k, 0) for k in range(8) for _ in range(2)]
    level.asked.clear()
    of_classes(Retiming(level), CFG(2.0), recurrence=2)
    assert level.asked == [(k, again) for k in range(8) for again in range(2)]


def test_every_timestep_that_is_asked_about_has_a_level_of_its_own() -> None:
    class Elsewhere(Guidance):
        """Asks about the same samples at two timesteps, and again at the first."""

        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            places = torch.full((len(x),), 7)
            for timestep in (7, step.timestep, places, places):
                predict(x, timestep)
            return predict(x, step.timestep)

    level = Noted()
    changed, plain = sampled(Retiming(level), Elsewhere()), sampled(Retiming(Noted()))
    assert level.asked == [(k, 0) for k in range(10) for _ in range(4)]
    torch.testing.assert_close(changed, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: KnownNoise(-0.1), "sigma must be a finite number of at least 0, got -0.1"),
        (lambda: Retiming(start=3, stop=5), "start is 3 and stop 5"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()
