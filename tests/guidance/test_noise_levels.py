"""Estimates of the noise level, each where its answer is known in closed form."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from class_mixture import ClassMixture
from gaussian_mixture import ExactTimePosterior, GaussianMixture
from problems import exact_denoiser, random_vectors
from torch import Tensor, nn

from tag_lightning.diffusion import (
    Denoiser,
    ImageSpace,
    LinearSchedule,
    NonFiniteError,
    Predict,
    Prediction,
    Run,
    SampleNoise,
    Step,
)
from tag_lightning.guidance import (
    CalibratedNoise,
    KnownNoise,
    NoiseLevel,
    PatchNoise,
    PosteriorNoise,
    PredictedNoise,
    RegressedNoise,
    Retiming,
    TrackedNoise,
    WaveletNoise,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
POWERS = SCHEDULE.alphas_cumprod
DIM = 512
POINT = GaussianMixture([1], [[0.5] * DIM], [1e-9])
"""Data that are one point: whatever else a sample has is noise."""


def step_at(timestep: int, shape: tuple[int, ...] = (DIM,), count: int = 4) -> Step:
    space, power = ImageSpace(shape, range(count), dtype=torch.float64, clip_range=None), float(POWERS[timestep])
    levels, source = [(power, 1.0)], SampleNoise(0, range(count))
    return Step(0, timestep, None, power, 1.0, len(POWERS), levels, space, source, alphas_cumprod=POWERS)


def never(x: Tensor, timestep: Tensor | int, **inputs: Tensor) -> Prediction:
    raise AssertionError("this estimate costs no pass of the denoiser")


def disturbed(ratio: float, timestep: int) -> tuple[Tensor, Tensor]:
    """Samples of ``POINT`` with ``ratio`` times the noise, and what d coordinates tell of its logarithm."""
    power, epsilon = float(POWERS[timestep]), random_vectors(4, DIM, seed=timestep)
    x = math.sqrt(power) * 0.5 + ratio * math.sqrt(1 - power) * epsilon
    return x, (ratio * (epsilon.square().mean(1)).sqrt()).log()


def test_known_noise_adds_up_with_that_of_the_timestep() -> None:
    found = KnownNoise(0.2).log_ratio(random_vectors(4, DIM), step_at(30), never)
    power = 1 - float(POWERS[30])
    torch.testing.assert_close(found, torch.full((4,), 0.5 * math.log((power + 0.04) / power), dtype=torch.float64))


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("timestep", [10, 40, 90])
def test_predicted_noise_of_point_data_has_the_length_of_the_noise(ratio: float, timestep: int) -> None:
    x, told = disturbed(ratio, timestep)
    predict = exact_denoiser(POINT, SCHEDULE)
    found = PredictedNoise(1).log_ratio(x, step_at(timestep), predict)
    torch.testing.assert_close(found, told, rtol=1e-6, atol=1e-6)
    # A second round finds the right level found already, but for the rounding to a training timestep.
    gaps = POWERS.logit().diff().abs()[max(0, timestep - 8) : timestep + 8].max() / 2
    again = PredictedNoise(2).log_ratio(x, step_at(timestep), predict)
    assert (again - told).abs().max() < gaps


@pytest.mark.parametrize("ratio", [0.8, 1.25])
def test_the_posterior_mean_goes_to_the_level(ratio: float) -> None:
    x, told = disturbed(ratio, 40)
    predictor = ExactTimePosterior(POINT, SCHEDULE)
    found = PosteriorNoise(predictor, rounds=12, damping=0.5).log_ratio(x, step_at(40), never)
    torch.testing.assert_close(found, told, rtol=0, atol=0.03)
    once = PosteriorNoise(predictor, rounds=1, damping=0.5).log_ratio(x, step_at(40), never)
    assert (once.sign() == told.sign()).all()
    assert not torch.allclose(once, found, atol=0.01)  # off the marginals one look is not enough


def test_wavelet_noise_is_the_median_of_the_diagonal_detail() -> None:
    x = random_vectors(4, 3, 7, 9)
    found = WaveletNoise().log_ratio(x, step_at(40, (3, 7, 9)), never)
    for image, answer in zip(x.numpy(), found, strict=True):
        detail = [
            (channel[i, j] - channel[i, j + 1] - channel[i + 1, j] + channel[i + 1, j + 1]) / 2
            for channel in image
            for i in range(0, 6, 2)
            for j in range(0, 8, 2)
        ]
        middle = np.sort(np.abs(detail))[(len(detail) - 1) // 2]  # torch's median is the lower one
        assert float(answer) == pytest.approx(math.log(middle / 0.6744897501960817 / math.sqrt(1 - float(POWERS[40]))))


def test_wavelet_noise_does_not_see_what_is_smooth() -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ramp = (0.3 * rows - 0.2 * columns).double().expand(4, 3, 64, 64)
    power = 1 - float(POWERS[40])
    x = ramp + 1.5 * math.sqrt(power) * random_vectors(4, 3, 64, 64)
    found = WaveletNoise().log_ratio(x, step_at(40, (3, 64, 64)), never)
    torch.testing.assert_close(found, torch.full_like(found, math.log(1.5)), rtol=0, atol=0.08)


def test_patch_noise_is_the_mean_eigenvalue_that_is_the_median() -> None:
    x = random_vectors(4, 2, 9, 11)
    found = PatchNoise().log_ratio(x, step_at(40, (2, 9, 11)), never)
    for image, answer in zip(x.numpy(), found, strict=True):
        patches = [image[:, i : i + 3, j : j + 3].ravel() for i in range(7) for j in range(9)]
        falling = np.sort(np.linalg.eigvalsh(np.cov(np.array(patches).T, bias=True)))[::-1]
        rests = [falling[i:] for i in range(len(falling))]
        variance = next(rest.mean() for rest in rests if (rest > rest.mean()).sum() == (rest < rest.mean()).sum())
        assert float(answer) == pytest.approx(0.5 * math.log(variance / (1 - float(POWERS[40]))))


@pytest.mark.parametrize("ratio", [0.5, 1.5])
def test_patch_noise_does_not_see_what_is_regular(ratio: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    waves = (3 * (0.7 * rows).sin() * (1.3 * columns).cos()).double().expand(4, 1, 64, 64)
    noise = ratio * math.sqrt(1 - float(POWERS[40]))
    x = waves + noise * random_vectors(4, 1, 64, 64)
    found = PatchNoise(8).log_ratio(x, step_at(40, (1, 64, 64)), never)
    torch.testing.assert_close(found, torch.full_like(found, math.log(ratio)), rtol=0, atol=0.08)
    blind = WaveletNoise().log_ratio(x, step_at(40, (1, 64, 64)), never)
    assert float(blind.mean()) > math.log(ratio) + 0.08  # to which the waves are noise


class Scripted(NoiseLevel):
    """One answer per call."""

    def __init__(self, *answers: Tensor) -> None:
        self.answers = list(answers)

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return self.answers.pop(0)


def excess(log_ratio: Tensor, power: float) -> Tensor:
    return ((2 * log_ratio).exp() - 1) * power


def test_tracking_a_constant_averages_with_the_weights_of_least_squares() -> None:
    timesteps, answers = [90, 60, 30], [0.1 * random_vectors(4, seed=k) for k in range(3)]
    tracked, state = TrackedNoise(Scripted(*answers), drift=1e-9), dict[str, object]()
    found = torch.zeros(0)
    for index, timestep in enumerate(timesteps):
        step = replace(step_at(timestep), index=index)
        step.state.update(state)
        found = tracked.log_ratio(random_vectors(4, DIM), step, never)
        state = step.state
    powers = [1 - float(POWERS[t]) for t in timesteps]
    seen = torch.stack([excess(a, p) for a, p in zip(answers, powers, strict=True)])
    weights = torch.stack([((2 * a).exp() * p).square().reciprocal() for a, p in zip(answers, powers, strict=True)])
    torch.testing.assert_close(excess(found, powers[-1]), (weights * seen).sum(0) / weights.sum(0))


def test_every_answer_of_a_step_is_filtered_with_the_steps_before_it() -> None:
    answers = [0.1 * random_vectors(4, seed=k) for k in range(3)]
    x, state = random_vectors(4, DIM), dict[str, object]()
    first, repeated, second = (
        replace(step_at(timestep), index=index, pass_index=again, state=state)
        for timestep, index, again in ((90, 0, 0), (90, 0, 1), (60, 1, 0))
    )
    for before in ([first], [first, repeated]):
        state.clear()
        twice = TrackedNoise(Scripted(*answers[:1] * len(before), *answers[1:], answers[2]), drift=0.05)
        for step in before:
            twice.log_ratio(x, step, never)
        twice.log_ratio(x, second, never)  # of other samples, which the next answer replaces
        found = twice.log_ratio(x, second, never)
        again = twice.log_ratio(x, second, never)
        state.clear()
        once = TrackedNoise(Scripted(*answers[:1] * len(before), answers[2]), drift=0.05)
        for step in before:
            once.log_ratio(x, step, never)
        expected = once.log_ratio(x, second, never)
        assert torch.equal(found, expected)
        assert torch.equal(again, expected)


def test_tracking_without_memory_is_the_estimate_itself() -> None:
    answers = [0.1 * random_vectors(4, seed=k) for k in range(2)]
    tracked, step = TrackedNoise(Scripted(*answers), drift=math.inf), step_at(40)
    for answer in list(answers):
        torch.testing.assert_close(tracked.log_ratio(random_vectors(4, DIM), step, never), answer)


def test_calibration_takes_the_bias_away_and_is_silent_within_the_spread() -> None:
    bias, spread = torch.linspace(0, 1, 100), torch.full((100,), 0.1)
    answer = torch.tensor([0.4, 0.5, 0.7, -0.1], dtype=torch.float64)
    found = CalibratedNoise(Scripted(answer), bias, spread, 2.0).log_ratio(random_vectors(4, DIM), step_at(40), never)
    expected = answer - float(bias[40])
    torch.testing.assert_close(found, torch.where(expected.abs() > 0.2, expected, 0))


def test_calibration_is_measured_on_data_with_the_right_noise() -> None:
    """The noise predicted for a wide Gaussian is shorter than the noise: ``sqrt((1 - a) / (a v + 1 - a))`` of it."""
    wide = GaussianMixture([1], [[0.0] * DIM], [1.0])
    x0 = wide.sample(64, torch.Generator().manual_seed(0))
    space = ImageSpace((DIM,), range(64), dtype=torch.float64, clip_range=None)
    denoiser = exact_denoiser(wide, SCHEDULE)
    calibrated = CalibratedNoise.measured(PredictedNoise(1), x0, space, denoiser, at=[20, 80], threshold=0)
    expected = 0.5 * (1 - POWERS[[20, 80]]).log()
    torch.testing.assert_close(calibrated.bias[[0, 49, 51, 99]], expected[[0, 0, 1, 1]], rtol=0, atol=0.02)
    torch.testing.assert_close(
        calibrated.spread[[20]], torch.tensor([1 / math.sqrt(2 * DIM)]).double(), rtol=0.4, atol=0
    )


def test_calibration_tells_a_conditional_denoiser_the_condition() -> None:
    classes = ClassMixture([[2.0] * DIM, [-1.0] * DIM], 0.3, SCHEDULE)
    labels, denoiser = torch.tensor([0, 1, 1, 0]), classes.denoiser()
    x0 = classes.means[labels] + 0.3**0.5 * random_vectors(4, DIM)
    CalibratedNoise.measured(PredictedNoise(1), x0, classes.space(labels), denoiser, at=[20, 80])
    assert denoiser.network.heard == [labels.tolist()] * 2


class Moody(nn.Module):
    """A denoiser or a regressor of the noise level that is disturbed while it is in training mode."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.dropout(x).reshape(len(x), -1, *self.shape).mean(1)


@pytest.mark.parametrize("level", [PredictedNoise(1), RegressedNoise(Moody(()))], ids=["denoiser", "regressor"])
def test_calibration_is_measured_in_evaluation_mode(level: NoiseLevel) -> None:
    denoiser, x0 = Denoiser(Moody((DIM,)), SCHEDULE, "epsilon"), random_vectors(4, DIM)
    space = step_at(0).space
    networks = [denoiser, denoiser.network, *([level.network] if isinstance(level, RegressedNoise) else [])]
    found = []
    for training in (False, True):
        for network in networks:
            network.train(training)
        measured = CalibratedNoise.measured(level, x0, space, denoiser, at=[20, 80])
        assert all(part.training is training for network in networks for part in network.modules())
        found.append((measured.bias, measured.spread))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_calibration_that_would_be_silent_everywhere_is_refused() -> None:
    """The standard deviation of one value is NaN, which nothing exceeds."""
    one = ImageSpace((DIM,), range(1), dtype=torch.float64, clip_range=None)
    denoiser = exact_denoiser(POINT, SCHEDULE)
    with pytest.raises(ValueError, match="the spread of an estimate is measured on at least 2 samples, got 1"):
        CalibratedNoise.measured(PredictedNoise(1), random_vectors(1, DIM), one, denoiser, at=[20])
    broken = Scripted(torch.tensor([0.1, torch.nan, 0.2, 0.3]))
    with pytest.raises(NonFiniteError, match="the noise level returned NaN or infinity at timestep 20 for 1 of 4"):
        CalibratedNoise.measured(broken, random_vectors(4, DIM), step_at(0).space, denoiser, at=[20])


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: PredictedNoise(0), "rounds must be at least 1, got 0"),
        (lambda: PosteriorNoise(damping=0.0), r"damping in \(0, 1\], got 4 and 0.0"),
        (lambda: TrackedNoise(KnownNoise(0.1), 0.0), "drift must be above 0, got 0.0"),
        (lambda: CalibratedNoise(KnownNoise(0.1), torch.zeros(3), torch.zeros(4)), r"two vectors \[T\]"),
        (lambda: CalibratedNoise(KnownNoise(0.1), torch.zeros(3), torch.zeros(3), -1), "threshold must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], NoiseLevel], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()


def test_what_is_no_image_and_what_has_another_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"WaveletNoise needs images .* got \[4, 512\]"):
        WaveletNoise().log_ratio(random_vectors(4, DIM), step_at(3), never)
    for shape in ([4, 512], [2, 3, 7, 7]):  # 25 patches of 27 values
        with pytest.raises(ValueError, match=r"PatchNoise needs images .* more patches of 3 x 3 than values in one"):
            PatchNoise().log_ratio(random_vectors(*shape), step_at(3), never)
    with pytest.raises(ValueError, match="knows 7 timesteps but the denoiser has 100"):
        PosteriorNoise(nn.Linear(DIM, 7).double()).log_ratio(random_vectors(4, DIM), step_at(3), never)
    with pytest.raises(ValueError, match=r"^PosteriorNoise has no predictor: pass predictor"):
        PosteriorNoise().log_ratio(random_vectors(4, DIM), step_at(3), never)
    with pytest.raises(ValueError, match=r"^PosteriorNoise has no predictor: pass predictor"):
        Retiming(PosteriorNoise()).for_run(Run())


def test_the_denoiser_is_a_prediction_like_any_other() -> None:
    """Levels ask the denoiser as guidance wraps it, at a timestep per sample."""
    asked: list[Tensor] = []
    denoiser: Denoiser = exact_denoiser(POINT, SCHEDULE)

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor) -> Prediction:
        asked.append(torch.as_tensor(timestep))
        return denoiser(x, timestep)

    x = torch.cat([disturbed(ratio, 40)[0][:1] for ratio in (0.7, 1.0, 1.0, 1.4)])
    PredictedNoise(2).log_ratio(x, step_at(40), predict)
    assert asked[0].tolist() == [40] * 4
    assert asked[1][0] < 40 < asked[1][3]
