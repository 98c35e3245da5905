"""Bounds, spheres and moments: lengths to the last digit, and Adam against torch's own."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from problems import UNEVEN, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    DPMSolverPlusPlus,
    DPMSolverPlusPlusSDE,
    Guidance,
    LinearSchedule,
    PointCloudSpace,
    Predict,
    Prediction,
    Proposal,
    Run,
    SampleNoise,
    Sampler,
    Solver,
    Space,
    Step,
)
from tag_lightning.guidance import (
    DPS,
    DSG,
    LGD,
    MPGD,
    TFG,
    UGD,
    AdaptiveMoments,
    ClassifierGuidance,
    Condition,
    ConditionedGuidance,
    FixedLengthSteps,
    GuidanceWrapper,
    ResidualDPS,
    TrustRegion,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
TARGET = random_vectors(6, 2, seed=3)


def near() -> Condition:
    return Condition(nn.Identity(), TARGET, half_square)


class Watch(Guidance):
    """Keeps the proposals it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Proposal, Step]] = []

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        self.seen.append((proposal, step))
        return proposal


def moves(guidance: Guidance, eta: float = 0.0, num_steps: int = 6) -> list[tuple[Tensor, Step]]:
    """The moves of the mean, with the steps."""
    before, after = Watch(), Watch()
    Sampler(DENOISER, DDIM(eta), num_steps, [before, guidance, after]).sample(vector_space(range(6)), 0)
    return [(b[0].mean - a[0].mean, a[1]) for a, b in zip(before.seen, after.seen, strict=True)]


def sampled(*guidance: Guidance, solver: Solver | None = None, num_steps: int = 6) -> Tensor:
    return Sampler(DENOISER, solver or DDIM(0.0), num_steps, guidance).sample(vector_space(range(6)), 0)


@pytest.mark.parametrize("inner", [DPS(near(), 5.0), TFG(near(), 3.0, 1.0), MPGD(near(), 4.0)])
@pytest.mark.parametrize("kappa", [0.01, 0.3])
def test_no_move_is_longer_than_the_fraction_of_the_noise_the_step_leaves(
    inner: ConditionedGuidance, kappa: float
) -> None:
    bounded, free = moves(TrustRegion(inner, kappa)), moves(inner)
    for move, step in bounded:
        longest = kappa * math.sqrt(2 * (1 - step.next_alpha_bar))
        assert (move.norm(dim=1) <= longest * (1 + 1e-9)).all()
    # The first step starts from the same samples: the direction is kept, and a short move is left alone.
    (move, step), (unbounded, _) = bounded[0], free[0]
    longest = kappa * math.sqrt(2 * (1 - step.next_alpha_bar))
    scale = (longest / unbounded.norm(dim=1)).clamp(max=1)
    torch.testing.assert_close(move, scale[:, None] * unbounded)


def test_the_step_that_ends_at_the_data_is_not_guided() -> None:
    for guidance in (TrustRegion(DPS(near(), 5.0)), FixedLengthSteps(DPS(near()))):
        move, step = moves(guidance)[-1]
        assert step.next_timestep is None
        assert move.abs().max() == 0


def test_within_a_wide_region_the_method_is_itself_but_for_the_last_step() -> None:
    unguided_at_the_end = DPS(near(), 0.5, stop=20)
    torch.testing.assert_close(sampled(TrustRegion(DPS(near(), 0.5), 1e3)), sampled(unguided_at_the_end))


@pytest.mark.parametrize("num_steps", [5, 12])
def test_by_default_the_lengths_of_all_steps_add_up_to_three_quarters(num_steps: int) -> None:
    default, explicit = (
        sampled(FixedLengthSteps(DPS(near()), kappa), num_steps=num_steps) for kappa in (None, 0.75 / num_steps)
    )
    assert torch.equal(default, explicit)
    assert not torch.equal(default, sampled(FixedLengthSteps(DPS(near()), 0.5 / num_steps), num_steps=num_steps))


def test_steps_of_fixed_length_forget_the_scale() -> None:
    for move, step in moves(FixedLengthSteps(DPS(near()), 0.05))[:-1]:
        expected = torch.full((6,), 0.05 * math.sqrt(2 * (1 - step.next_alpha_bar)), dtype=torch.float64)
        torch.testing.assert_close(move.norm(dim=1), expected)
    one, other = (sampled(FixedLengthSteps(DPS(near(), scale), 0.05)) for scale in (0.01, 100.0))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(sampled(TrustRegion(DPS(near(), 1e9), 0.05)), one)


@pytest.mark.parametrize("scale", [2.0**-7, 2.0**-27, 2.0**-100, 1e-2, 1e-5, 1e-8, 1e-25, 1e-35])
def test_steps_of_fixed_length_forget_the_scale_in_single_precision(scale: float) -> None:
    """A power of two changes no rounding; any other scale a few last digits."""
    denoiser = exact_denoiser(UNEVEN, SCHEDULE)
    condition = Condition(nn.Identity(), TARGET.float(), half_square)
    one, other = (
        Sampler(denoiser, DDIM(0.0), 6, [FixedLengthSteps(DPS(condition, each))]).sample(
            vector_space(range(6), dtype=torch.float32), 0
        )
        for each in (1.0, scale)
    )
    assert one.dtype == torch.float32
    power_of_two = math.frexp(scale)[0] == 0.5
    torch.testing.assert_close(other, one, rtol=0, atol=0 if power_of_two else 1e-5)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e18, 1e25, 1e38])
def test_a_region_bounds_moves_of_every_size_in_single_precision(size: float) -> None:
    step = step_at(SCHEDULE, vector_space(range(1), dtype=torch.float32), 60, 50)
    region = TrustRegion(DPS(near()), 0.05)
    longest = 0.05 * (2 * 0.5) ** 0.5
    moved = region.bounded(torch.tensor([[0.6 * size, -0.8 * size]]), 0.5, step)
    expected = min(size, longest) * torch.tensor([[0.6, -0.8]])
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("build", [TFG, MPGD, ResidualDPS, LGD])
def test_a_move_is_that_of_the_proposal_however_short_it_is(build: Callable[..., ConditionedGuidance]) -> None:
    guidance, step = build(near()), step_at(SCHEDULE, vector_space(range(6)), 60, 50)
    x = random_vectors(6, 2).requires_grad_(True)
    far, near_by = (Proposal(torch.full_like(TARGET, at), 0.0, torch.zeros(6, 2)) for at in (1e20, 0.0))

    def afresh() -> Step:
        return replace(step, noise_source=SampleNoise(0, range(6)))

    first = guidance.mean_move(far, x, DENOISER(x, 60), afresh())
    others = [
        guidance.mean_move(near_by, x, DENOISER(x, 60), afresh()),
        guidance.propose(near_by, x, DENOISER(x, 60), afresh()).mean,
    ]
    assert first.norm() > 0
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=0)


def test_a_guidance_that_does_not_say_its_move_cannot_be_bounded() -> None:
    class Silent(ConditionedGuidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            return proposal.moved(torch.ones_like(x))

    with pytest.raises(ValueError, match="TrustRegion cannot change the move of Silent, which has no mean_move; give"):
        TrustRegion(Silent(near()))


def test_a_sample_without_a_gradient_stays_where_it_is() -> None:
    class Flat(DPS):
        def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return torch.zeros_like(x)

    for guidance in (TrustRegion(Flat(near())), FixedLengthSteps(Flat(near()))):
        torch.testing.assert_close(sampled(guidance), sampled(), rtol=0, atol=0)


def test_wrappers_complete_what_they_wrap_and_act_where_it_acts() -> None:
    wrapped = TrustRegion(AdaptiveMoments(DPS(scale=0.2, start=80)), stop=10)
    ready = wrapped.for_run(Run(conditions={"near": near()}))
    assert wrapped.guidance.guidance.condition is None  # type: ignore[attr-defined]
    assert sampled(ready).isfinite().all()
    assert [t for t in (99, 80, 40, 10, 9) if ready.acts(t)] == [80, 40, 10]
    with pytest.raises(ValueError, match="DPS has no condition"):
        wrapped.for_run(Run())


def test_a_wrapper_alone_changes_nothing() -> None:
    torch.testing.assert_close(sampled(GuidanceWrapper(DPS(near(), 0.5))), sampled(DPS(near(), 0.5)), rtol=0, atol=0)


@pytest.mark.parametrize("betas", [(0.0, 0.817), (0.9, 0.999)])
def test_adaptive_moments_are_adams(betas: tuple[float, float]) -> None:
    gradients = random_vectors(5, 6, 2, seed=9)

    class Given(DPS):
        def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return gradients[step.index]

    scale = 0.3
    parameter = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=scale, betas=betas, eps=1e-8, maximize=True)
    guidance = AdaptiveMoments(Given(near(), scale), *betas)
    for move, step in moves(guidance, num_steps=5):
        before = parameter.detach().clone()
        parameter.grad = gradients[step.index]
        adam.step()
        factor = math.sqrt(step.next_alpha_bar / step.alpha_bar)
        torch.testing.assert_close(move, factor * (parameter.detach() - before))


def test_adaptive_moments_of_classifier_guidance_are_adams() -> None:
    gradients, scale = random_vectors(4, 6, 2, seed=10), 0.3
    parameter = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=scale, betas=(0.0, 0.817), eps=1e-8, maximize=True)

    class Given(ClassifierGuidance):
        def noisy_gradient(self, x: Tensor, step: Step) -> Tensor:
            return gradients[step.index]

    class Compared(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            plain, guided = DENOISER(x, step.timestep), predict(x, step.timestep)
            before = parameter.detach().clone()
            parameter.grad = gradients[step.index]
            adam.step()
            expected = math.sqrt(1 - step.alpha_bar) * (parameter.detach() - before)
            torch.testing.assert_close(plain.epsilon - guided.epsilon, expected)
            return guided

    guidance = [AdaptiveMoments(Given(near(), scale)), Compared()]
    Sampler(DENOISER, DDIM(0.0), 4, guidance).sample(vector_space(range(6)), 0)
    assert bool(parameter.detach().abs().min() > 0)


def test_moments_of_mean_guidance_and_of_every_run_are_their_own() -> None:
    guidance = AdaptiveMoments(MPGD(near(), 0.3))
    first = sampled(guidance)
    torch.testing.assert_close(sampled(guidance), first, rtol=0, atol=0)
    assert not torch.allclose(first, sampled(MPGD(near(), 0.3)))


def cloud(indices: range) -> PointCloudSpace:
    return PointCloudSpace([3, 5, 4], 2, indices, dtype=torch.float64)


@pytest.mark.parametrize(
    ("space", "build"), [(vector_space(range(6)), None), (cloud(range(3)), cloud)], ids=["vectors", "point-clouds"]
)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_spherical_samples_lie_on_their_sphere(space: Space, build: Callable | None, weight: float) -> None:
    target = torch.zeros(len(space.indices), dtype=torch.float64)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - 1).square().flatten(1).sum(1)

    class Positions(nn.Module):
        def forward(self, x: Tensor, **inputs: Tensor) -> Tensor:
            return x

    class Half(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, **inputs: Tensor) -> Tensor:
            return 0.5 * x

    watch = Watch()
    guidance = [DSG(Condition(Positions(), target, loss), weight), watch]
    Sampler(Denoiser(Half(), SCHEDULE, "epsilon"), DDIM(1.0), 5, guidance).sample(space, 0)
    for proposal, _ in watch.seen[:-1]:
        distance = (proposal.sample - proposal.mean).flatten(1).norm(dim=1)
        expected = space.degrees_of_freedom.sqrt() * proposal.std
        torch.testing.assert_close(distance, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            space.project(proposal.sample), space.project(proposal.mean + proposal.std * proposal.noise)
        )
    assert watch.seen[-1][0].std == 0


def test_the_weight_turns_the_random_direction_into_that_of_the_gradient() -> None:
    before, after = Watch(), Watch()
    Sampler(DENOISER, DDIM(1.0), 2, [before, DSG(near(), 1.0), after]).sample(vector_space(range(6)), 0)
    x = vector_space(range(6))
    proposal, _ = after.seen[0]
    leaf = x.noise(SampleNoise(0, range(6))).requires_grad_(True)
    prediction = DENOISER(leaf, 99)
    (gradient,) = torch.autograd.grad(-half_square(prediction.x0, TARGET).sum(), leaf)
    torch.testing.assert_close(proposal.noise, math.sqrt(2) * gradient / gradient.norm(dim=1, keepdim=True))
    plain = before.seen[0][0].noise
    kept = Watch()
    Sampler(DENOISER, DDIM(1.0), 2, [DSG(near(), 0.0), kept]).sample(vector_space(range(6)), 0)
    noise = kept.seen[0][0].noise
    torch.testing.assert_close(noise, math.sqrt(2) * plain / plain.norm(dim=1, keepdim=True))


def test_spherical_guidance_may_act_at_every_other_step() -> None:
    before, after = Watch(), Watch()
    Sampler(DENOISER, DDIM(1.0), 5, [before, DSG(near(), 1.0, every=2), after]).sample(vector_space(range(6)), 0)
    changed = [not torch.equal(a[0].noise, b[0].noise) for a, b in zip(before.seen, after.seen, strict=True)]
    assert changed == [True, False, True, False, False]


@pytest.mark.parametrize("solver", [DDIM(0.0), DPMSolverPlusPlus()])
@pytest.mark.parametrize("guidance", [DSG(near()), AdaptiveMoments(DSG(near()))])
def test_a_solver_without_noise_has_no_sphere(solver: Solver, guidance: Guidance) -> None:
    with pytest.raises(ValueError, match=r"chooses the noise of each step, but .* draws none; use a stochastic solver"):
        Sampler(DENOISER, solver, 5, [guidance])
    Sampler(DENOISER, DPMSolverPlusPlusSDE(), 5, [guidance])


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: TrustRegion(DPS(near()), 0.0), "kappa must be a finite number above 0, got 0"),
        (lambda: FixedLengthSteps(DPS(near()), math.inf), "kappa must be"),
        (lambda: DSG(near(), 1.2), r"weight must lie in \[0, 1\], got 1.2"),
        (lambda: DSG(near(), every=0), "every must be at least 1"),
        (lambda: AdaptiveMoments(DPS(near()), beta2=1.0), r"beta2 must lie in \[0, 1\), got 1.0"),
        (lambda: AdaptiveMoments(DPS(near()), delta=0.0), "delta must be above 0"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], Guidance], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()


class Downhill(ClassifierGuidance):
    """Classifier guidance by a classifier of noisy samples whose gradient is known."""

    def noisy_gradient(self, x: Tensor, step: Step) -> Tensor:
        return TARGET - x


PREDICTING = [
    lambda stop: UGD(near(), 0.4, mu=0.3, recurrence=1, stop=stop),
    lambda stop: Downhill(near(), 0.4, stop=stop),
    lambda stop: AdaptiveMoments(Downhill(near(), 0.1), stop=stop),
]


@pytest.mark.parametrize("build", PREDICTING)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_methods_that_guide_the_prediction_make_the_same_move_of_the_proposal(
    build: Callable[[int | None], ConditionedGuidance], eta: float
) -> None:
    wide = sampled(TrustRegion(build(None), 1e3), solver=DDIM(eta))
    torch.testing.assert_close(wide, sampled(build(20), solver=DDIM(eta)))
    assert not torch.allclose(wide, sampled(solver=DDIM(eta)))


@pytest.mark.parametrize("build", PREDICTING)
def test_methods_that_guide_the_prediction_take_steps_of_a_fixed_length(
    build: Callable[[int | None], ConditionedGuidance],
) -> None:
    for move, step in moves(FixedLengthSteps(build(None), 0.05))[:-1]:
        expected = torch.full((6,), 0.05 * math.sqrt(2 * (1 - step.next_alpha_bar)), dtype=torch.float64)
        torch.testing.assert_close(move.norm(dim=1), expected)


def test_a_bound_leaves_the_prediction_to_the_guidance_after_it() -> None:
    """UGD itself returns a prediction that nothing can be differentiated through."""
    with pytest.raises(ValueError, match="without a graph"):
        sampled(UGD(near()), UGD(near()))
    assert sampled(TrustRegion(UGD(near())), UGD(near())).isfinite().all()


def test_a_prediction_that_is_changed_in_a_way_of_its_own_cannot_be_bounded() -> None:
    class Own(DPS):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            return predict(x, step.timestep)

    with pytest.raises(ValueError, match="changes the prediction, but is no PredictionGuidance"):
        TrustRegion(Own(near()))


def test_moments_belong_inside_a_bound() -> None:
    with pytest.raises(ValueError, match=r"the other way round: TrustRegion\(AdaptiveMoments"):
        AdaptiveMoments(TrustRegion(DPS(near())))


def test_a_wrapper_draws_the_noise_of_the_method_it_wraps() -> None:
    """So that the bounded and the unbounded arm stay paired."""
    smoothed = LGD(near(), 0.2, 3, 0.5, stop=20)
    torch.testing.assert_close(sampled(TrustRegion(smoothed, 1e6)), sampled(smoothed))
