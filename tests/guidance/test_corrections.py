"""Corrections of the noise level, each held to a closed form and to the case in which it must do nothing."""

import math
from collections.abc import Callable

import pytest
import torch
from gaussian_mixture import ExactTimePosterior, GaussianMixture
from problems import UNEVEN, ScriptedSpace, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    NULL_TIMESTEP_KEY,
    Denoiser,
    DPMSolverPlusPlus,
    Guidance,
    LinearSchedule,
    NonFiniteError,
    Prediction,
    Run,
    Sampler,
    Solver,
)
from tag_lightning.guidance import (
    DPS,
    ClassifierFreeNoiseAwareness,
    Condition,
    Corruption,
    EpsilonScaling,
    LangevinCorrector,
    NoiseAwarenessGuidance,
    NoiseLevelCorrection,
    PosteriorNoise,
    RegressedNoise,
    SelfGuidance,
    TemporalAlignment,
    TimeCorrection,
    TimeShift,
    TimestepGuidance,
)

TOTAL, COUNT = 100, 6
SCHEDULE = LinearSchedule(TOTAL, 1e-4, 0.1)
POWERS = SCHEDULE.alphas_cumprod
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
POSTERIOR = ExactTimePosterior(UNEVEN, SCHEDULE)
TARGET = random_vectors(COUNT, 2, seed=3)


def dps(scale: float = 0.5) -> DPS:
    return DPS(Condition(nn.Identity(), TARGET, half_square), scale)


def sampled(*guidance: Guidance, solver: Solver | None = None, denoiser: Denoiser = DENOISER, seed: int = 0) -> Tensor:
    return Sampler(denoiser, solver or DDIM(0.0), 8, guidance).sample(vector_space(range(COUNT)), seed)


def predicted_level(predictor: nn.Module) -> PosteriorNoise:
    """The level that a time predictor expects."""
    return PosteriorNoise(predictor, rounds=1, damping=1.0)


class Names(nn.Module):
    """A time predictor that is certain of one timestep per sample: a list of them, one for each call."""

    def __init__(self, calls: list[Tensor]) -> None:
        super().__init__()
        self.calls = list(calls)

    def forward(self, x: Tensor) -> Tensor:
        return 1e3 * nn.functional.one_hot(self.calls.pop(0), TOTAL).to(x)


class Ratio(nn.Module):
    """A regressor of the noise level that answers the same ratio for every sample."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.full((len(x),), math.log(self.ratio), dtype=x.dtype)


class ForgetfulDenoiser(nn.Module):
    """The exact noise where the timestep is told, and its posterior mean where it is not."""

    def __init__(self, remembers: bool = True) -> None:
        super().__init__()
        self.config = {NULL_TIMESTEP_KEY: True} if remembers else {}

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        if int(timesteps[0]) == SCHEDULE.null_timestep:
            scores = UNEVEN.score(x[:, None], POWERS)
            return -(POSTERIOR(x).softmax(1)[..., None] * (1 - POWERS).sqrt()[:, None] * scores).sum(1)
        return DENOISER.network(x, timesteps)


def right() -> list[Tensor]:
    """The timesteps of a run, as a perfect predictor of undisturbed samples names them."""
    return [torch.full((COUNT,), t) for t in Sampler(DENOISER, DDIM(0.0), 8).timesteps]


IDLE = {
    "time correction": lambda: TimeCorrection(Names(right())),
    "timestep guidance, scale": lambda: TimestepGuidance(0.0),
    "timestep guidance, spread": lambda: TimestepGuidance(2.0, 0.0),
    "self-guidance, scale": lambda: SelfGuidance(0.0),
    "self-guidance, shift": lambda: SelfGuidance(2.0, 0),
    "epsilon scaling": lambda: EpsilonScaling(1.0),
    "time shift": lambda: TimeShift(0, stop=None),
    "langevin": lambda: LangevinCorrector(0.0),
    "noise level, network": lambda: NoiseLevelCorrection(RegressedNoise(Ratio(1.0))),
    "noise level, predictor": lambda: NoiseLevelCorrection(predicted_level(Names(right()))),
    "noise awareness": lambda: NoiseAwarenessGuidance(POSTERIOR, 0.0),
    "noise awareness, certain": lambda: NoiseAwarenessGuidance(Flat(), 3.0),
}


class Flat(nn.Module):
    """A posterior that no move changes."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.sum(1, keepdim=True) + torch.arange(TOTAL, dtype=x.dtype)


@pytest.mark.parametrize("solver", [DDIM(0.0), DPMSolverPlusPlus()], ids=["DDIM", "DPM++"])
@pytest.mark.parametrize("build", IDLE.values(), ids=IDLE.keys())
def test_nothing_changes_where_there_is_nothing_to_correct(build: Callable[[], Guidance], solver: Solver) -> None:
    torch.testing.assert_close(sampled(build(), solver=solver), sampled(solver=solver))


def test_time_correction_denoises_each_sample_at_the_timestep_that_it_looks_like() -> None:
    x, seen = random_vectors(COUNT, 2), list[Tensor]()

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        seen.append(torch.as_tensor(timestep))
        return DENOISER(x, timestep)

    step = step_at(SCHEDULE, vector_space(range(COUNT)), 50, 37)
    TimeCorrection(POSTERIOR).denoise(x, step, predict)
    expected = UNEVEN.log_density(x[:, None, :], POWERS).argmax(1)
    assert torch.equal(seen[0], expected)
    assert len(expected.unique()) > 1


GAUSSIAN = GaussianMixture([1], [[0.0, 0.0]], [0.3])
"""One Gaussian, for which every step is a factor."""


def factors(epsilon_over_x: Callable[[float, int], float]) -> float:
    """The factor from pure noise to the sample of DDIM(0), for ``epsilon = epsilon_over_x(a, t) x``."""
    sampler = Sampler(DENOISER, DDIM(0.0), 8)
    bars = [float(POWERS[t]) for t in sampler.timesteps]
    total = 1.0
    for t, a, after in zip(sampler.timesteps, bars, [*bars[1:], 1.0], strict=True):
        epsilon = epsilon_over_x(a, t)
        x0 = (1 - math.sqrt(1 - a) * epsilon) / math.sqrt(a)
        total *= math.sqrt(after) * x0 + math.sqrt(1 - after) * epsilon
    return total


def exact_noise(a: float, t: int) -> float:
    return math.sqrt(1 - a) / (a * 0.3 + 1 - a)


def told(a: float, t: int) -> float:
    """The noise for samples at level ``a`` of the level of ``t``."""
    return exact_noise(float(POWERS[t]), t)


@pytest.mark.parametrize(
    ("guidance", "epsilon"),
    [
        (EpsilonScaling(1.02), lambda a, t: exact_noise(a, t) / 1.02),
        (EpsilonScaling(0.99, 0.05), lambda a, t: exact_noise(a, t) / (0.99 + 0.05 * t / TOTAL)),
        (SelfGuidance(1.5, 7), lambda a, t: 2.5 * exact_noise(a, t) - 1.5 * told(a, min(t + 7, 99))),
    ],
    ids=["constant", "linear", "self-guidance"],
)
def test_corrected_noise_leads_a_gaussian_where_the_recursion_says(
    guidance: Guidance, epsilon: Callable[[float, int], float]
) -> None:
    denoiser = exact_denoiser(GAUSSIAN, SCHEDULE)
    noise = random_vectors(1, COUNT, 2)
    x = Sampler(denoiser, DDIM(0.0), 8, [guidance]).sample(ScriptedSpace(noise), 0)
    torch.testing.assert_close(x, factors(epsilon) * noise[0])


def test_timestep_guidance_perturbs_the_timestep_of_each_sample_by_its_own_noise() -> None:
    guidance, count = TimestepGuidance(1.0, 0.05), 1000
    step = step_at(SCHEDULE, vector_space(range(count)), 50, 37)
    moved = (guidance.other_timestep(torch.zeros(count, 2), step) - 50).double()
    assert abs(moved.mean()) < 0.8  # five standard errors
    assert moved.std() == pytest.approx(5, rel=0.12)
    for t in (0, 99):
        ends = guidance.other_timestep(torch.zeros(50, 2), step_at(SCHEDULE, vector_space(range(50)), t, None))
        assert t in ends
        assert 0 <= int(ends.min()) <= int(ends.max()) <= 99


@pytest.mark.parametrize("t", [0, 40, 99])
def test_a_langevin_step_keeps_the_variance_of_a_gaussian_up_to_the_square_of_its_size(t: int) -> None:
    """Over a design of four points and four noises with exact second moments: ``1 + delta^2`` times the variance."""
    a, snr = float(POWERS[t]), 0.2
    variance = a * 0.3 + 1 - a
    corners = math.sqrt(2) * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    x = math.sqrt(variance) * corners.repeat_interleave(4, 0)
    space = ScriptedSpace(corners.repeat(4, 1)[None])
    moved = LangevinCorrector(snr).correct(x, step_at(SCHEDULE, space, t, None), exact_denoiser(GAUSSIAN, SCHEDULE))
    alpha = a / float(POWERS[t - 1]) if t > 0 else a
    delta = 2 * alpha * snr**2  # in units of the variance, since |z| / |s| is its root
    torch.testing.assert_close(moved.square().mean(), torch.tensor(variance * (1 + delta**2), dtype=torch.float64))


@pytest.mark.parametrize("ratio", [0.8, 1.3])
def test_noise_level_correction_takes_the_step_of_its_paper(ratio: float) -> None:
    """``x0 + sigma' (sigma^ / sigma) epsilon(y / sqrt(1 + sigma^^2))`` in units of the signal, in a loop of its own."""
    noise = random_vectors(1, COUNT, 2)
    x = Sampler(DENOISER, DDIM(0.0), 5, [NoiseLevelCorrection(RegressedNoise(Ratio(ratio)))]).sample(
        ScriptedSpace(noise), 0
    )
    levels = (1 / POWERS - 1).sqrt()
    timesteps = Sampler(DENOISER, DDIM(0.0), 5).timesteps
    y = noise[0] / POWERS[timesteps[0]].sqrt()
    for t, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        estimate = ratio * levels[t]
        nearest = int((levels.log() - estimate.log()).abs().argmin())
        epsilon = DENOISER(y / (1 + estimate**2).sqrt(), nearest).epsilon
        following = 0.0 if after is None else ratio * levels[after]
        y = y - estimate * epsilon + following * epsilon
    torch.testing.assert_close(x, y)


def test_the_time_predictors_level_is_the_posterior_mean_of_its_logarithm() -> None:
    x = random_vectors(COUNT, 2)
    step = step_at(SCHEDULE, vector_space(range(COUNT)), 50, 37)
    log_levels = (1 / POWERS - 1).sqrt().log()
    expected = UNEVEN.log_density(x[:, None], POWERS).softmax(1) @ log_levels - log_levels[50]
    torch.testing.assert_close(
        predicted_level(POSTERIOR).log_ratio(x, step, exact_denoiser(UNEVEN, SCHEDULE)), expected
    )


@pytest.mark.parametrize("t", [10, 60, 99])
def test_noise_awareness_adds_the_time_score_to_the_score(t: int) -> None:
    x, w = random_vectors(COUNT, 2), 0.7
    step = step_at(SCHEDULE, vector_space(range(COUNT)), t, t - 8)
    a, after = float(POWERS[t]), float(POWERS[t - 8])
    time_score = TemporalAlignment(POSTERIOR).time_linked_score(x, t)
    guided = NoiseAwarenessGuidance(POSTERIOR, w).denoise(x, step, DENOISER)
    torch.testing.assert_close(-guided.epsilon / math.sqrt(1 - a), UNEVEN.score(x, a) + w * time_score)
    torch.testing.assert_close(math.sqrt(a) * guided.x0 + math.sqrt(1 - a) * guided.epsilon, x)
    # And so a step of DDIM(0) ends where the docstring says.
    plain = DENOISER(x, t)
    ends = [math.sqrt(after) * p.x0 + math.sqrt(1 - after) * p.epsilon for p in (guided, plain)]
    factor = math.sqrt(after * (1 - a) / a) - math.sqrt(1 - after)
    torch.testing.assert_close(ends[0] - ends[1], w * math.sqrt(1 - a) * factor * time_score)


def test_a_denoiser_that_is_not_told_its_timestep_stands_in_for_the_predictor() -> None:
    x, w, t = random_vectors(COUNT, 2), 0.7, 60
    step = step_at(SCHEDULE, vector_space(range(COUNT)), t, 52)
    posterior = UNEVEN.log_density(x[:, None], POWERS).softmax(1)
    noises = torch.stack([DENOISER(x, k).epsilon for k in range(TOTAL)], 1)
    mean = (posterior[..., None] * noises).sum(1)
    guided = ClassifierFreeNoiseAwareness(w).denoise(x, step, Denoiser(ForgetfulDenoiser(), SCHEDULE, "epsilon"))
    torch.testing.assert_close(guided.epsilon, (1 + w) * noises[:, t] - w * mean)
    torch.testing.assert_close(SCHEDULE.add_noise(guided.x0, guided.epsilon, t), x)


def test_a_denoiser_that_was_always_told_its_timestep_is_refused() -> None:
    guidance, denoiser = (
        ClassifierFreeNoiseAwareness(),
        Denoiser(ForgetfulDenoiser(remembers=False), SCHEDULE, "epsilon"),
    )
    with pytest.raises(ValueError, match=r"^ClassifierFreeNoiseAwareness needs .*timestep_dropout 0\.1$"):
        Sampler(denoiser, DDIM(), 8, [guidance])
    with pytest.raises(ValueError, match=r"always told its timestep .*timestep_dropout 0\.1$"):
        denoiser(torch.zeros(2, 2), 5, null_timestep=True)


CORRECTIONS: dict[str, Callable[[], Guidance]] = {
    "TimeCorrection": lambda: TimeCorrection(POSTERIOR, start=60),
    "TimestepGuidance": lambda: TimestepGuidance(0.3),
    "SelfGuidance": lambda: SelfGuidance(0.3),
    "EpsilonScaling": EpsilonScaling,
    "TimeShift": lambda: TimeShift(20, stop=30),
    "LangevinCorrector": LangevinCorrector,
    "NoiseLevelCorrection": lambda: NoiseLevelCorrection(RegressedNoise(Ratio(0.95))),
    "NoiseLevelCorrection, predictor": lambda: NoiseLevelCorrection(predicted_level(POSTERIOR), start=60),
    "NoiseAwarenessGuidance": lambda: NoiseAwarenessGuidance(POSTERIOR, 0.1),
    "ClassifierFreeNoiseAwareness": lambda: ClassifierFreeNoiseAwareness(0.1),
}


@pytest.mark.parametrize("build", CORRECTIONS.values(), ids=CORRECTIONS.keys())
def test_every_correction_acts_beside_tag_and_dps_in_either_order(build: Callable[[], Guidance]) -> None:
    denoiser = Denoiser(ForgetfulDenoiser(), SCHEDULE, "epsilon")
    others = [TemporalAlignment(POSTERIOR, 0.01), dps(0.1), Corruption(0.05)]
    first, last = (sampled(*arm, denoiser=denoiser) for arm in ([build(), *others], [*others, build()]))
    without = sampled(*others, denoiser=denoiser)
    for x in (first, last):
        assert x.isfinite().all()
        assert not torch.allclose(x, without)


@pytest.mark.parametrize("outer", CORRECTIONS.values(), ids=CORRECTIONS.keys())
def test_corrections_answer_at_the_timesteps_that_one_later_in_the_list_asks_for(
    outer: Callable[[], Guidance],
) -> None:
    denoiser = Denoiser(ForgetfulDenoiser(), SCHEDULE, "epsilon")
    answering = [correction for build in CORRECTIONS.values() if not (correction := build()).replaces_timestep]
    sampler = Sampler(denoiser, DDIM(0.0), 2, [*answering, outer()])
    assert sampler.sample(vector_space(range(COUNT)), 0).isfinite().all()


def test_the_move_of_dps_is_that_of_the_denoisers_own_prediction() -> None:
    """Whatever level the solver is shown."""
    for build in (lambda: TimeCorrection(Names([torch.full((COUNT,), 80)])), lambda: EpsilonScaling(1.1)):
        both, alone, guided, plain = (
            Sampler(DENOISER, DDIM(0.0), 1, arm).sample(vector_space(range(COUNT)), 0)
            for arm in ([build(), dps()], [build()], [dps()], [])
        )
        torch.testing.assert_close(both - alone, guided - plain)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: EpsilonScaling(0.0), "scale must be a finite number above 0, got 0"),
        (lambda: EpsilonScaling(1.0, -1.5), r"scale \+ slope must be a finite number above 0, got -0.5"),
        (lambda: SelfGuidance(-1.0), "guidance_scale must be a finite number of at least 0, got -1"),
        (lambda: SelfGuidance(shift=-1), "shift must be at least 0 training timesteps, got -1"),
        (lambda: TimestepGuidance(math.inf), "guidance_scale must be a finite number"),
        (lambda: TimestepGuidance(spread=-0.1), "spread must be a finite number of at least 0, got -0.1"),
        (lambda: TimeShift(-2), "window must be at least 0 training timesteps, got -2"),
        (lambda: TimeShift(data_variance=-1.0), "data_variance must be a finite number of at least 0"),
        (lambda: LangevinCorrector(-0.1), "snr must be a finite number of at least 0, got -0.1"),
        (lambda: LangevinCorrector(num_corrections=0), "num_corrections must be at least 1, got 0"),
        (lambda: NoiseAwarenessGuidance(guidance_scale=-1.0), "guidance_scale must be a finite number of at least 0"),
        (lambda: ClassifierFreeNoiseAwareness(math.nan), "guidance_scale must be a finite number of at least 0"),
        (lambda: TimeCorrection().for_run(Run()), "TimeCorrection has no predictor: pass predictor"),
        (lambda: NoiseAwarenessGuidance().for_run(Run()), "NoiseAwarenessGuidance has no predictor"),
        (lambda: NoiseLevelCorrection().for_run(Run()), "RegressedNoise has no network: pass network"),
        (lambda: NoiseLevelCorrection(PosteriorNoise()).for_run(Run()), "PosteriorNoise has no predictor"),
        (lambda: sampled(TimeCorrection()), "TimeCorrection has no predictor"),
        (lambda: sampled(NoiseLevelCorrection()), "RegressedNoise has no network"),
        (lambda: sampled(TimeCorrection(nn.Linear(2, 20).double())), "knows 20 timesteps but the denoiser has 100"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()


class Broken(Flat):
    def forward(self, x: Tensor) -> Tensor:
        return math.nan * super().forward(x)


def test_a_predictor_that_fails_at_timesteps_of_another_guidance_is_named() -> None:
    message = "^the time predictor returned NaN or infinity at timesteps of their own for 6 of 6 samples; check"
    with pytest.raises(NonFiniteError, match=message):
        sampled(NoiseAwarenessGuidance(Broken()), TimeCorrection(POSTERIOR))


def test_what_is_left_open_comes_from_the_run() -> None:
    run = Run(predictor=POSTERIOR, noise_level=Ratio(0.9))
    for kind in (TimeCorrection, NoiseAwarenessGuidance):
        open_one = kind()
        assert open_one.for_run(run).predictor is POSTERIOR
        assert open_one.predictor is None
    level = NoiseLevelCorrection().for_run(run).level
    assert isinstance(level, RegressedNoise)
    assert level.network is run.noise_level
