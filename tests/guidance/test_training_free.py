"""TFG against its algorithm written out, and every special case against the family or a closed form."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gaussian_mixture import GaussianMixture
from problems import UNEVEN, Asked, ScriptedSpace, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, LinearSchedule, Prediction, Run, Sampler, Step
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
    FreeDoM,
    ResidualDPS,
    TemporalAlignment,
    residual_norm,
)
from tag_lightning.guidance.conditions import half_squared_residual

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
TARGET = random_vectors(6, 2, seed=3)
RANGE = (-0.8, 0.9)


def curved(output: Tensor, target: Tensor) -> Tensor:
    return half_square(torch.tanh(output), target)


def near(loss: Callable[[Tensor, Tensor], Tensor] = curved) -> Condition:
    return Condition(nn.Identity(), TARGET, loss)


def sampled(*guidance: Guidance, num_steps: int = 6, eta: float = 1.0, denoiser: Denoiser = DENOISER) -> Tensor:
    return Sampler(denoiser, DDIM(eta), num_steps, guidance).sample(vector_space(range(6)), seed=0)


def by_the_book(
    script: Tensor, rho: float, mu: float, iterations: int, passes: int, num_steps: int, clip: bool, guide_clipped: bool
) -> Tensor:
    """Algorithm 1 of arXiv 2409.15761 without smoothing, both schedules increasing, in plain lines.

    With ``clip`` the solver sees ``x0`` within RANGE, with ``guide_clipped`` all of the algorithm, as in its code.
    """
    noises = list(script)
    timesteps = [round(100 * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]
    bars = [float(SCHEDULE.alphas_cumprod[t]) for t in timesteps] + [1.0]
    ratios = [bars[i] / bars[i + 1] for i in range(num_steps)]
    x = noises.pop(0)
    for i, t in enumerate(timesteps):
        a, a_next = bars[i], bars[i + 1]
        weight = ratios[i] / (sum(ratios) / num_steps)
        for k in range(passes):
            if k:
                x = math.sqrt(a / a_next) * x + math.sqrt(1 - a / a_next) * noises.pop(0)
            leaf = x.clone().requires_grad_(True)
            estimate = DENOISER(leaf, t).x0
            guided = torch.clamp(estimate, *RANGE) if guide_clipped else estimate
            (g,) = torch.autograd.grad(-curved(guided, TARGET).sum(), leaf)
            moved = guided.detach().clone()
            for _ in range(iterations):
                moved.requires_grad_(True)
                (g0,) = torch.autograd.grad(-curved(moved, TARGET).sum(), moved)
                moved = (moved + mu * weight * g0).detach()
            clean = torch.clamp(estimate.detach(), *RANGE) if clip else estimate.detach()
            epsilon = (x - math.sqrt(a) * clean) / math.sqrt(1 - a)
            std = math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
            step = math.sqrt(a_next) * clean + math.sqrt(max(0, 1 - a_next - std**2)) * epsilon
            step = step + (std * noises.pop(0) if std > 0 else 0)
            x = step + rho * weight * g / math.sqrt(a / a_next) + math.sqrt(a_next) * (moved - guided.detach())
    return torch.clamp(x, *RANGE) if clip else x


@pytest.mark.parametrize(("clip", "guide_clipped"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("passes", [1, 3])
def test_tfg_is_its_algorithm(passes: int, clip: bool, guide_clipped: bool) -> None:
    script, num_steps = random_vectors(1 + 5 * (2 * passes), 6, 2, seed=8), 5
    guidance = TFG(near(), rho=0.4, mu=0.2, num_iterations=3, recurrence=passes, guide_clipped=guide_clipped)
    space = ScriptedSpace(script, RANGE if clip else None)
    ours = Sampler(DENOISER, DDIM(1.0), num_steps, [guidance]).sample(space, 0)
    reference = by_the_book(script, 0.4, 0.2, 3, passes, num_steps, clip, guide_clipped)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", [DPS, ResidualDPS, LGD, FreeDoM, UGD, TFG, DSG])
def test_every_gradient_method_has_both_conventions(build: Callable[..., Guidance]) -> None:
    """Outside the range the clamp has no gradient; inside it the two conventions agree."""

    def gradient(bounds: tuple[float, float], guide_clipped: bool) -> Tensor:
        space = vector_space(range(6))
        space.clip_range = bounds
        step = step_at(SCHEDULE, space, 60, 50)
        leaf = random_vectors(6, 2).requires_grad_(True)
        guidance: Any = build(near(), guide_clipped=guide_clipped)
        return guidance.gradient(leaf, DENOISER(leaf, 60), step)

    torch.testing.assert_close(gradient((-9.0, 9.0), True), gradient((-9.0, 9.0), False), rtol=0, atol=0)
    assert gradient((7.0, 9.0), True).abs().max() == 0
    assert gradient((7.0, 9.0), False).abs().max() > 0


def test_mean_guidance_starts_from_the_clipped_estimate_and_may_leave_it() -> None:
    space = vector_space(range(6))
    space.clip_range = RANGE
    x, step = random_vectors(6, 2), step_at(SCHEDULE, space, 60, 50)
    prediction = DENOISER(x, 60)
    guidance = MPGD(near(), 0.7, guide_clipped=True)
    expected = math.sqrt(step.alpha_bar) * guidance.mean_displacement(prediction.x0.clamp(*RANGE), step)
    torch.testing.assert_close(guidance.displacement(x, prediction, step), expected)
    assert not torch.allclose(MPGD(near(), 0.7).displacement(x, prediction, step), expected)


class SmoothedDPS(TFG):
    """Draws from the noise stream of LGD, as a wrapper of it would."""

    @property
    def innermost(self) -> Guidance:
        return LGD(near())


@pytest.mark.parametrize(
    ("case", "family"),
    [
        (DPS(near(), 0.7), TFG(near(), 0.7, 0, rho_schedule="constant")),
        (DPS(near(), 0.7, clip=0.1), TFG(near(), 0.7, 0, rho_schedule="constant", clip=0.1)),
        (MPGD(near(), 0.7), TFG(near(), 0, 0.7, num_iterations=1, mu_schedule="constant")),
        (FreeDoM(near(), 0.7, recurrence=3), TFG(near(), 0.7, 0, recurrence=3)),
        (
            LGD(near(), 0.7, 4, 0.5),
            SmoothedDPS(near(), 0.7, 0, 0.5, 4, rho_schedule="constant"),
        ),
    ],
    ids=["DPS", "DPS-clipped", "MPGD", "FreeDoM", "LGD"],
)
def test_special_cases_are_members_of_the_family(case: TFG, family: TFG) -> None:
    torch.testing.assert_close(sampled(case), sampled(family), rtol=0, atol=0)


def test_mean_guidance_never_runs_backward_through_the_denoiser() -> None:
    class Counted(nn.Module):
        recorded = 0

        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            Counted.recorded += x.requires_grad or torch.is_grad_enabled()
            return DENOISER.network(x, timesteps)

    sampled(MPGD(near(), 0.5), denoiser=Denoiser(Counted(), SCHEDULE, "epsilon"))
    assert Counted.recorded == 0
    sampled(DPS(near(), 0.5), denoiser=Denoiser(Counted(), SCHEDULE, "epsilon"))
    assert Counted.recorded == 6


@pytest.mark.parametrize("schedule", ["increase", "decrease", "constant"])
def test_strengths_have_the_mean_that_was_asked_for(schedule: Any) -> None:
    lengths: list[float] = []

    class Noted(TFG):
        def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return torch.ones_like(x)

        def variance_displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            move = super().variance_displacement(x, prediction, step)
            lengths.append(float(move[0, 0]))
            return move

    sampled(Noted(near(), rho=0.3, mu=0, rho_schedule=schedule), num_steps=7)
    assert sum(lengths) / 7 == pytest.approx(0.3)
    order = {"increase": sorted(lengths), "decrease": sorted(lengths, reverse=True), "constant": [0.3] * 7}[schedule]
    assert lengths == pytest.approx(order)


@pytest.mark.parametrize("constant", [False, True])
def test_smoothing_of_a_gaussian_likelihood_is_a_wider_gaussian(constant: bool) -> None:
    """``log E exp(-|x0 + g n - y|^2 / 2)`` has the slope ``-(x0 - y) / (1 + g^2)``."""
    torch.manual_seed(0)
    x0, step = random_vectors(6, 2), step_at(SCHEDULE, vector_space(range(6)), 60, 50)
    guidance = LGD(near(half_square), 1.0, num_draws=20_000, gamma=0.8)
    if constant:
        guidance = TFG(near(half_square), gamma=0.8, num_draws=20_000, gamma_schedule="constant")
    gamma_squared = 0.64 * (1.0 if constant else 1 - step.alpha_bar)
    expected = -(x0 - TARGET) / (1 + gamma_squared)
    assert (guidance.mean_gradient(x0, step) - expected).abs().max() < 0.05


def test_universal_guidance_is_its_formula_in_epsilon() -> None:
    x, step = random_vectors(6, 2), step_at(SCHEDULE, vector_space(range(6)), 60, 50)
    guided = UGD(near(), scale=0.7, mu=0.3, num_iterations=2).denoise(x, step, DENOISER)
    leaf, a = x.clone().requires_grad_(True), step.alpha_bar
    plain = DENOISER(leaf, 60)
    (g,) = torch.autograd.grad(-curved(plain.x0, TARGET).sum(), leaf)
    moved = plain.x0.detach()
    for _ in range(2):
        moved.requires_grad_(True)
        (g0,) = torch.autograd.grad(-curved(moved, TARGET).sum(), moved)
        moved = (moved + 0.3 * g0).detach()
    delta = moved - plain.x0.detach()
    epsilon = plain.epsilon.detach() - 0.7 * math.sqrt(1 - a) * g - math.sqrt(a / (1 - a)) * delta
    torch.testing.assert_close(guided.epsilon, epsilon)
    torch.testing.assert_close(SCHEDULE.add_noise(guided.x0, guided.epsilon, 60), x)
    assert not guided.epsilon.requires_grad


def test_residual_dps_is_dps_with_the_norm_of_the_residual() -> None:
    x, step = random_vectors(6, 2), step_at(SCHEDULE, vector_space(range(6)), 60, 50)
    leaf = x.clone().requires_grad_(True)
    prediction = DENOISER(leaf, 60)
    by_norm = DPS(near(residual_norm), 0.5).displacement(leaf, prediction, step)
    divided = ResidualDPS(near(half_squared_residual), 0.5).displacement(leaf, prediction, step)
    torch.testing.assert_close(divided, by_norm)
    (of_square,) = torch.autograd.grad(residual_norm(prediction.x0, TARGET).square().sum(), leaf, retain_graph=True)
    zeta = 0.25 / residual_norm(prediction.x0, TARGET).detach()[:, None]
    torch.testing.assert_close(divided, -zeta * of_square)  # the paper's own form


def test_residual_dps_refuses_a_loss_that_is_no_square() -> None:
    with pytest.raises(ValueError, match="the residual's norm already; use DPS"):
        ResidualDPS(near(residual_norm)).for_run(Run())


def test_the_guide_may_see_the_clipped_estimate_and_is_differentiated_through_the_clamp() -> None:
    space = vector_space(range(6))
    space.clip_range = (-0.3, 0.3)
    x, step = random_vectors(6, 2), step_at(SCHEDULE, space, 60, 50)
    leaf = x.clone().requires_grad_(True)
    prediction = DENOISER(leaf, 60)
    (expected,) = torch.autograd.grad(-curved(prediction.x0.clamp(-0.3, 0.3), TARGET).sum(), leaf, retain_graph=True)
    torch.testing.assert_close(DPS(near(), 1.0, guide_clipped=True).displacement(leaf, prediction, step), expected)


def test_an_exact_classifier_turns_the_mixture_into_its_component() -> None:
    """Bayes: the score of ``p(x) p(c | x)`` is that of ``p(x | c)``, at every timestep."""

    class Component(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            a = SCHEDULE.alphas_cumprod[timesteps[0]]
            means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -2.0]], dtype=x.dtype)
            weights = torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)
            variances = a * torch.tensor([0.2, 0.5, 0.05], dtype=x.dtype) + 1 - a
            squares = (x[:, None] - a.sqrt() * means).square().sum(2)
            return weights.log() - variances.log() - squares / (2 * variances)

    wanted = exact_denoiser(GaussianMixture([1], [[-1.0, 1.0]], [0.5]), SCHEDULE)
    guidance = ClassifierGuidance(Condition(Component(), torch.full((6,), 1)), scale=1.0)
    torch.testing.assert_close(sampled(guidance), sampled(denoiser=wanted))


@pytest.mark.parametrize(
    "guidance",
    [TFG(near()), LGD(near(), 0.2), FreeDoM(near(), 0.2), MPGD(near(), 0.2), UGD(near(), 0.2, 0.1), DPS(near(), 0.2)],
    ids=lambda guidance: type(guidance).__name__,
)
def test_every_method_composes_with_tag_in_either_order(guidance: Guidance) -> None:
    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x @ weights)

    weights = random_vectors(2, 100, seed=5)
    tag = TemporalAlignment(Posterior(), 0.05)
    plain, alone = sampled(tag), sampled(guidance)
    for both in (sampled(tag, guidance), sampled(guidance, tag)):
        assert both.isfinite().all()
        assert not torch.allclose(both, plain)
        assert not torch.allclose(both, alone)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rho": -1.0}, "rho must be a finite number of at least 0, got -1"),
        ({"mu": math.nan}, "mu must be a finite number"),
        ({"gamma": math.inf}, "gamma must be"),
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"),
        ({"num_iterations": 0}, "num_iterations must be at least 1"),
        ({"rho_schedule": "linear"}, "rho_schedule must be one of increase, decrease, constant, got 'linear'"),
        ({"clip": 0.0}, "clip must be a finite number above 0"),
        ({"recurrence": 0}, "recurrence must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TFG(near(), **settings)


def test_tag_looks_ahead_with_mean_guidance_as_it_moves_the_proposal() -> None:
    x, step, posterior = random_vectors(6, 2), step_at(SCHEDULE, vector_space(range(6)), 60, 50), Asked()
    mpgd = MPGD(near(), 0.4)
    TemporalAlignment(posterior, 0.1, [mpgd]).correct(x, step, DENOISER)
    x0 = DENOISER(x, 60).x0
    expected = x + math.sqrt(step.alpha_bar) * mpgd.mean_displacement(x0, step)
    torch.testing.assert_close(posterior.seen[0], expected)
    assert not torch.allclose(expected, x)


def test_tag_looks_ahead_only_where_its_conditions_act_and_keeps_their_memories_apart() -> None:
    posterior = Asked()
    moments = AdaptiveMoments(DPS(near(), 0.1))
    sampled(TemporalAlignment(posterior, 0.1, [moments, moments]), num_steps=4)
    both = [x.clone() for x in posterior.seen]
    posterior.seen.clear()
    sampled(TemporalAlignment(posterior, 0.1, [DPS(near(), 5.0, start=0)]), num_steps=4)
    unmoved = [x.clone() for x in posterior.seen]
    posterior.seen.clear()
    sampled(TemporalAlignment(posterior, 0.1), num_steps=4)
    assert all(torch.equal(a, b) for a, b in zip(unmoved, posterior.seen, strict=True))
    # In the first step Adam moves every coordinate by the scale, once for each condition.
    torch.testing.assert_close((both[0] - posterior.seen[0]).abs().amax(), torch.tensor(0.2, dtype=torch.float64))


def test_looking_ahead_through_a_prediction_without_a_graph_is_refused() -> None:
    tag = TemporalAlignment(Asked(), 0.1, [DPS(near())])
    with pytest.raises(ValueError, match="DPS cannot look ahead through UGD, which predicts without a graph; put Temp"):
        sampled(UGD(near(), 0.1), tag)
    assert sampled(tag, UGD(near(), 0.1)).isfinite().all()


def test_guidance_without_the_constructor_of_its_base_says_what_is_missing() -> None:
    class Bare(DPS):
        def __init__(self) -> None:
            self.scale = self.rho = 1.0

    with pytest.raises(ValueError, match="Bare has no condition"):
        Bare().for_run(Run())
