"""Guidance of the prediction: what it moves alone, inside wrappers, and behind a prediction at another level."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from problems import UNEVEN, Asked, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Guidance,
    LinearSchedule,
    Predict,
    Prediction,
    Sampler,
    Step,
    per_sample,
)
from tag_lightning.guidance import (
    DPS,
    MPGD,
    UGD,
    AdaptiveLengthSteps,
    AdaptiveMoments,
    AlignedMoves,
    ClassifierGuidance,
    Condition,
    ConditionedGuidance,
    FixedLengthSteps,
    GuidanceWrapper,
    MoreRedAS,
    ProximalAlignment,
    Retiming,
    TemporalAlignment,
    TimeCorrection,
    TimeShift,
    TrustRegion,
)
from tag_lightning.guidance.noise_level import KnownNoise

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
TARGET = random_vectors(6, 2, seed=3)
SCALE = 0.4


class Noisy(nn.Module):
    """A predictor that is told the timesteps."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return x * (1 + timesteps[:, None] / 100)


class Posterior(nn.Module):
    """A time predictor that finds another timestep in every sample."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x @ random_vectors(2, 100, seed=5).to(x))


def noisy() -> Condition:
    return Condition(Noisy(), TARGET, half_square)


def clean() -> Condition:
    return Condition(nn.Identity(), TARGET, half_square)


def classifier(scale: float = SCALE) -> ClassifierGuidance:
    return ClassifierGuidance(noisy(), scale)


def noisy_gradient(x: Tensor, timestep: int) -> Tensor:
    """``grad_x -|k x - y|^2 / 2`` with ``k = 1 + t / 100``."""
    factor = 1 + timestep / 100
    return -factor * (factor * x - TARGET)


def never(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
    raise AssertionError("the denoiser was called")


def step60() -> Step:
    return step_at(SCHEDULE, vector_space(range(6)), 60, 50)


def looked_at(guidance: ConditionedGuidance, x: Tensor, predict: Predict) -> Tensor:
    posterior = Asked()
    TemporalAlignment(posterior, 0.1, [guidance]).correct(x, step60(), predict)
    return posterior.seen[0]


WRAPPERS: list[Callable[[ConditionedGuidance], ConditionedGuidance]] = [
    lambda inner: inner,
    GuidanceWrapper,
    lambda inner: TrustRegion(inner, 1e9),
    lambda inner: TrustRegion(GuidanceWrapper(inner), 1e9),
    lambda inner: AlignedMoves(inner, Posterior()),
    lambda inner: ProximalAlignment(inner, Posterior()),
]


@pytest.mark.parametrize("wrapped", WRAPPERS)
def test_a_wrapped_classifier_looks_ahead_at_the_noisy_samples_without_the_denoiser(
    wrapped: Callable[[ConditionedGuidance], ConditionedGuidance],
) -> None:
    x, step = random_vectors(6, 2), step60()
    move = SCALE * (1 - step.alpha_bar) * noisy_gradient(x, 60)
    torch.testing.assert_close(looked_at(wrapped(classifier()), x, never), x + move)
    torch.testing.assert_close(wrapped(classifier()).displacement(x, DENOISER(x, 60), step), move)


def test_a_bound_holds_for_what_a_classifier_looks_ahead_at() -> None:
    x, step, kappa = random_vectors(6, 2), step60(), 0.03
    longest = kappa * (2 * (1 - step.alpha_bar)) ** 0.5
    direction = noisy_gradient(x, 60) / noisy_gradient(x, 60).norm(dim=1, keepdim=True)
    for bounded in (
        TrustRegion(classifier(100.0), kappa),
        FixedLengthSteps(classifier(1e-6), kappa),
        FixedLengthSteps(AdaptiveMoments(classifier(1e-6)), kappa),
        AdaptiveLengthSteps(classifier(1e-6), kappa),
    ):
        moved = looked_at(bounded, x, never) - x
        torch.testing.assert_close(moved.norm(dim=1), torch.full((6,), longest, dtype=torch.float64))
        if not isinstance(bounded.guidance, AdaptiveMoments):
            torch.testing.assert_close(moved, longest * direction)


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_universal_guidance_looks_ahead_along_the_move_that_changes_the_estimate_as_it_does(mu: float) -> None:
    """``x0 = (x - sqrt(1 - a) epsilon) / sqrt(a)``, at the same epsilon."""
    x, step, guidance = random_vectors(6, 2), step60(), UGD(clean(), SCALE, mu)
    moved = guidance.look_ahead(x, step, DENOISER)
    change = guidance.denoise(x, step, DENOISER).x0 - DENOISER(x, 60).x0
    torch.testing.assert_close(moved, step.alpha_bar**0.5 * change)
    torch.testing.assert_close(TrustRegion(guidance, 1e9).look_ahead(x, step, DENOISER), moved)
    if mu == 0:
        leaf = x.clone().requires_grad_(True)
        gradient = DPS(clean()).gradient(leaf, DENOISER(leaf, 60), step)
        torch.testing.assert_close(moved, SCALE * (1 - step.alpha_bar) * gradient)


@pytest.mark.parametrize("guidance", [UGD(clean(), SCALE), UGD(clean(), SCALE, 0.3), MPGD(clean(), SCALE)])
def test_a_look_ahead_through_samples_that_were_rescaled_changes_the_estimate_as_the_guidance_does(
    guidance: ConditionedGuidance,
) -> None:
    """``x0 = (k x - sqrt(1 - a_s) epsilon) / sqrt(a_s)`` for samples that are multiplied by k before."""
    x, step, retiming = random_vectors(6, 2), step60(), Retiming(KnownNoise(0.3))
    seen: list[Prediction] = []

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        seen.append(retiming.denoise(x, replace(step, alphas_cumprod=SCHEDULE.alphas_cumprod), at_level))
        return seen[-1]

    def at_level(x: Tensor, timesteps: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        return DENOISER(x, timesteps)._replace(alpha_bar=SCHEDULE.alphas_cumprod[timesteps])

    move = guidance.look_ahead(x, step, predict)
    assert not torch.allclose(per_sample(seen[0].input_scale, x), torch.ones_like(x), atol=1e-3)
    scaled = per_sample(seen[0].input_scale, x)
    signal = per_sample(seen[0].level(step) ** 0.5, x)
    noise = per_sample((1 - seen[0].level(step)) ** 0.5, x)
    changed = (scaled * (x + move) - noise * seen[0].epsilon) / signal - seen[0].x0
    if isinstance(guidance, MPGD):
        expected = guidance.mean_displacement(seen[0].x0, step)
    else:
        expected = guidance.clean_move(x, predict(x.requires_grad_(True), 60), step)
    torch.testing.assert_close(changed.detach(), expected.detach())


GUIDED: list[Callable[[], ConditionedGuidance]] = [classifier, lambda: UGD(clean(), SCALE, 0.3, recurrence=1)]


@pytest.mark.parametrize("build", GUIDED)
@pytest.mark.parametrize("other", [TimeCorrection(Posterior()), TimeShift(window=60, stop=None)])
def test_noise_and_estimate_make_up_the_sample_at_the_level_they_were_predicted_at(
    build: Callable[[], ConditionedGuidance], other: Guidance
) -> None:
    guidance, levels = build(), []

    class Compared(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            guided = predict(x, step.timestep)
            if guided.alpha_bar is not None:
                a = per_sample(guided.alpha_bar, x)
                levels.append((a - step.alpha_bar).abs().max())
                torch.testing.assert_close(a**0.5 * guided.x0 + (1 - a) ** 0.5 * guided.epsilon, x.detach())
            return guided

    Sampler(DENOISER, DDIM(0.0), 5, [other, guidance, Compared()]).sample(vector_space(range(6)), 0)
    assert max(levels) > 0.05


@pytest.mark.parametrize("build", GUIDED)
def test_the_noise_moves_by_the_level_it_was_predicted_at(build: Callable[[], ConditionedGuidance]) -> None:
    """``epsilon^ = epsilon - scale sqrt(1 - a) grad``, with ``a`` of the timestep that the denoiser was told."""
    x, step, other = random_vectors(6, 2), step60(), torch.tensor([30, 40, 50, 60, 70, 80])
    a = SCHEDULE.alphas_cumprod[other]

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        return DENOISER(x, other)._replace(alpha_bar=a)

    leaf = x.clone().requires_grad_(True)
    plain, guidance = predict(leaf, 60), build()
    delta = torch.zeros_like(x)
    if isinstance(guidance, UGD):
        (gradient,) = torch.autograd.grad(-half_square(plain.x0, TARGET).sum(), leaf)
        delta = 0.3 * (TARGET - plain.x0.detach())
    else:
        gradient = noisy_gradient(x, 60)
    expected = plain.epsilon.detach() - SCALE * (1 - a).sqrt()[:, None] * gradient
    expected = expected - (a / (1 - a)).sqrt()[:, None] * delta
    torch.testing.assert_close(guidance.denoise(x, step, predict).epsilon.detach(), expected)


MOVERS: list[Callable[[ConditionedGuidance], Guidance]] = [
    TrustRegion,
    FixedLengthSteps,
    lambda inner: TrustRegion(TrustRegion(inner)),
    lambda inner: FixedLengthSteps(AdaptiveMoments(inner)),
]


@pytest.mark.parametrize("build", GUIDED)
@pytest.mark.parametrize("mover", MOVERS)
def test_a_bound_moves_the_proposal_beside_a_method_that_takes_the_step(
    build: Callable[[], ConditionedGuidance], mover: Callable[[ConditionedGuidance], Guidance]
) -> None:
    bounded, own = mover(build()), MoreRedAS(Posterior())
    assert (bounded.changes_prediction, bounded.moves_proposal) == (False, True)
    samples = Sampler(DENOISER, DDIM(0.0), 5, [own, bounded]).sample(vector_space(range(6)), 0)
    assert not torch.equal(samples, Sampler(DENOISER, DDIM(0.0), 5, [own]).sample(vector_space(range(6)), 0))
    with pytest.raises(ValueError, match="would discard that of"):
        Sampler(DENOISER, DDIM(0.0), 5, [bounded, own])


@pytest.mark.parametrize("wrapped", [lambda inner: inner, GuidanceWrapper, AdaptiveMoments])
@pytest.mark.parametrize("build", GUIDED)
def test_a_wrapper_that_guides_the_prediction_comes_before_a_method_that_takes_the_step(
    build: Callable[[], ConditionedGuidance], wrapped: Callable[[ConditionedGuidance], Guidance]
) -> None:
    guidance, own = wrapped(build()), MoreRedAS(Posterior())
    assert (guidance.changes_prediction, guidance.moves_proposal) == (True, False)
    assert Sampler(DENOISER, DDIM(0.0), 5, [guidance, own]).sample(vector_space(range(6)), 0).isfinite().all()
    with pytest.raises(ValueError, match="without the change by"):
        Sampler(DENOISER, DDIM(0.0), 5, [own, guidance])


def test_a_bound_differentiates_the_denoisers_own_prediction_behind_one_without_a_graph() -> None:
    """So the order of the two does not matter to it."""
    plain, bounded = UGD(clean(), SCALE, recurrence=1), TrustRegion(UGD(clean(), SCALE, recurrence=1))
    first, second = (
        Sampler(DENOISER, DDIM(0.0), 5, pair).sample(vector_space(range(6)), 0)
        for pair in ([plain, bounded], [bounded, plain])
    )
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, Sampler(DENOISER, DDIM(0.0), 5, [plain]).sample(vector_space(range(6)), 0))
