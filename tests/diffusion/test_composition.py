"""Guidances beside each other: noise streams, replaced predictions, other inputs and timesteps, modes."""

import math
from collections.abc import Callable

import pytest
import torch
from gaussian_mixture import ExactTimePosterior
from problems import UNEVEN, exact_denoiser, half_square, random_vectors, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    Guidance,
    ImageSpace,
    LinearSchedule,
    Predict,
    Prediction,
    Proposal,
    SampleNoise,
    Sampler,
    Step,
)
from tag_lightning.guidance import DPS, LGD, TFG, Condition, ConditionedGuidance, Corruption, TemporalAlignment
from tag_lightning.networks import MLPTimePredictor

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
TARGET = random_vectors(6, 2, seed=3)


def sampled(*guidance: Guidance, num_steps: int = 8, eta: float = 1.0, **settings: object) -> Tensor:
    sampler = Sampler(DENOISER, DDIM(eta), num_steps, guidance, **settings)  # type: ignore[arg-type]
    return sampler.sample(vector_space(range(6)), seed=0)


def first_noise() -> Tensor:
    """The samples that the first step denoises."""
    return vector_space(range(6)).noise(SampleNoise(0, range(6)))


class Keep(DDIM):
    """Keeps the predictions that reach the solver."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Prediction] = []

    def propose(self, x: Tensor, prediction: Prediction, step: Step, predict: Predict) -> Proposal:
        self.seen.append(prediction)
        return super().propose(x, prediction, step, predict)


def dps(scale: float = 0.5) -> DPS:
    return DPS(Condition(nn.Identity(), TARGET, half_square), scale)


class Idle(Guidance):
    """Draws noise and does nothing with it."""

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        step.noise()
        return x


class Sphere(Guidance):
    """Puts every sample at the same distance from the mean of its proposal, as DSG does (arXiv 2402.03201)."""

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        radius = step.space.degrees_of_freedom.sqrt()[:, None]
        direction = proposal.noise / proposal.noise.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return proposal._replace(noise=radius * direction)


class Halved(Guidance):
    """Replaces x0 without a graph, as MPGD does."""

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep).detach()
        return prediction._replace(x0=prediction.x0 / 2)


def test_arms_stay_paired_whatever_draws_beside_them() -> None:
    plain = sampled(Corruption(0.2))
    for arm in ([Corruption(0.2), Idle()], [Idle(), Corruption(0.2)], [Idle(), Idle(), Corruption(0.2)]):
        torch.testing.assert_close(sampled(*arm), plain, rtol=0, atol=0)


def test_what_draws_beside_a_condition_that_looks_ahead_leaves_its_noise_alone() -> None:
    condition = Condition(nn.Identity(), TARGET, half_square)
    smoothed, vanishing = LGD(condition, scale=0.5, num_draws=2), TFG(condition, rho=1e-30, mu=0.0, gamma=1.0)
    predictor = ExactTimePosterior(UNEVEN, SCHEDULE)
    alone, beside = (
        sampled(TemporalAlignment(predictor, 0.1, conditions=conditions))
        for conditions in ([smoothed], [vanishing, smoothed])
    )
    torch.testing.assert_close(beside, alone)
    assert not torch.allclose(alone, sampled(TemporalAlignment(predictor, 0.1)))


def test_two_guidances_of_one_class_draw_different_noise() -> None:
    seen: list[Tensor] = []

    class Look(Guidance):
        def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
            seen.append(step.noise())
            return x

    sampled(Look(), Look(), num_steps=1)
    assert not torch.equal(*seen)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_spherical_method_and_a_gradient_method_both_act_in_either_order(order: tuple[int, int]) -> None:
    """The mean moves by the gradient, and the sample sits on the sphere around it."""
    seen: list[tuple[Proposal, Step]] = []

    class Look(Guidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            seen.append((proposal, step))
            return proposal

    pair = (dps(), Sphere())
    sampled(Look(), *(pair[k] for k in order), Look(), num_steps=4)
    (before, step), (after, _) = seen[:2]
    radii = (after.sample - after.mean).norm(dim=1)
    torch.testing.assert_close(radii, torch.full_like(radii, math.sqrt(2) * after.std))
    x = first_noise().requires_grad_(True)
    prediction = DENOISER(x, 99)
    (gradient,) = torch.autograd.grad(-half_square(prediction.x0, TARGET).sum(), x)
    shift = 0.5 * math.sqrt(step.next_alpha_bar / step.alpha_bar) * gradient
    torch.testing.assert_close(after.mean - before.mean, shift)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_gradient_methods_differentiate_the_denoiser_where_another_replaced_the_prediction(
    order: tuple[int, int],
) -> None:
    pair = (Halved(), dps())
    both = sampled(*(pair[k] for k in order), num_steps=1, eta=0.0)
    replaced, guided, plain = sampled(Halved(), num_steps=1), sampled(dps(), num_steps=1), sampled(num_steps=1)
    torch.testing.assert_close(both, replaced + (guided - plain))


def test_a_gradient_method_works_beside_one_that_denoises_without_recording() -> None:
    class Unrecorded(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            with torch.no_grad():
                return predict(x, step.timestep)

    torch.testing.assert_close(sampled(Unrecorded(), dps()), sampled(dps()))


class Labelled(nn.Module):
    """Noise that depends on a label."""

    def forward(self, x: Tensor, timesteps: Tensor, label: Tensor) -> Tensor:
        return 0.1 * x + label[:, None]


def test_inputs_override_those_of_the_space_through_every_wrapper() -> None:
    """Classifier-free guidance in five lines, before another guidance and after it."""

    class Guided(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            conditional = predict(x, step.timestep)
            null = predict(x, step.timestep, label=torch.zeros(6, dtype=x.dtype))
            return conditional._replace(epsilon=2 * conditional.epsilon - null.epsilon)

    solver = Keep()
    space = vector_space(range(6))
    space.inputs = {"label": torch.arange(6, dtype=torch.float64)}
    denoiser = Denoiser(Labelled(), SCHEDULE, "epsilon")
    for guidance in ([Guided()], [Guided(), Guidance()], [Guidance(), Guided()]):
        Sampler(denoiser, solver, 1, guidance).sample(space, 0)
    x = first_noise()
    for prediction in solver.seen:
        torch.testing.assert_close(prediction.epsilon, 0.1 * x + 2 * space.inputs["label"][:, None])


def test_every_sample_may_have_a_timestep_of_its_own() -> None:
    timesteps = torch.tensor([10, 90, 50, 0, 99, 20])
    steps: list[Step] = []

    class Own(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            return predict(x, timesteps)

    class Look(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            steps.append(step)
            return predict(x, step.timestep)

    solver = Keep()
    Sampler(DENOISER, solver, 1, [Look(), Own()]).sample(vector_space(range(6)), 0)
    x = first_noise()
    for i, timestep in enumerate(timesteps.tolist()):
        one = DENOISER(x[i : i + 1], timestep)
        torch.testing.assert_close(solver.seen[0].epsilon[i : i + 1], one.epsilon)
        torch.testing.assert_close(solver.seen[0].x0[i : i + 1], one.x0)
    assert steps[0].timestep is timesteps
    torch.testing.assert_close(steps[0].alpha_bar, SCHEDULE.alphas_cumprod[timesteps])


@pytest.mark.parametrize("timesteps", [20, torch.tensor([20, 30, 40, 50, 60, 70])], ids=["one", "each"])
def test_a_prediction_at_another_noise_level_survives_clipping(timesteps: Tensor | int) -> None:
    """Its epsilon stays the noise between x0 and the sample at that level, not at the step's."""

    class Elsewhere(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            return predict(x, timesteps)

    solver = Keep()
    bounded = ImageSpace((2,), range(6), dtype=torch.float64, clip_range=(-0.3, 0.3))
    Sampler(DENOISER, solver, 1, [Elsewhere()]).sample(bounded, 0)
    x = first_noise()
    unclipped = DENOISER(x, timesteps)
    torch.testing.assert_close(solver.seen[0].x0, unclipped.x0.clamp(-0.3, 0.3))
    torch.testing.assert_close(SCHEDULE.add_noise(solver.seen[0].x0, solver.seen[0].epsilon, timesteps), x)
    inside = unclipped.x0.abs() <= 0.3
    assert torch.equal(solver.seen[0].epsilon[inside], unclipped.epsilon[inside])


def test_tag_looks_ahead_with_any_conditioned_guidance() -> None:
    class Slope(ConditionedGuidance):
        """A method of somebody else, which states only its gradient."""

        def gradient(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return torch.full_like(x, 0.25)

    asked: list[Tensor] = []

    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x.detach())
            return x.sum(1, keepdim=True) * torch.ones(100, dtype=x.dtype)

    sampled(TemporalAlignment(Posterior(), 0.1, [Slope()]), num_steps=1)
    x = first_noise()
    torch.testing.assert_close(asked[0], x + 0.25)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every read of a tensor's value by the host, which a GPU would have to be waited for."""
    found: list[str] = []
    for name in ("__bool__", "__float__", "__int__", "item", "tolist", "numpy"):
        plain = getattr(Tensor, name)

        def noted(self: Tensor, *args: object, name: str = name, plain: Callable = plain) -> object:
            found.append(name)
            return plain(self, *args)

        monkeypatch.setattr(Tensor, name, noted)
    return found


def test_the_loop_reads_values_once_every_ten_steps(reads: list[str]) -> None:
    predictor = MLPTimePredictor(2, 100).double()
    predictor.typical_nll.fill_(1.0)
    guidance = [TemporalAlignment(predictor), dps(), Corruption(0.1)]
    sampled(*guidance, num_steps=50)
    # Five looks at the checks and one at the end, the schedule, and the predictor's measured timesteps.
    assert reads == ["tolist"] * 8


def test_a_denoiser_left_in_training_mode_draws_without_dropout_and_goes_back_to_it() -> None:
    modes: list[bool] = []

    class Moody(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            modes.append(self.training)
            return x

    denoiser = Denoiser(Moody(), SCHEDULE, "epsilon").train()
    Sampler(denoiser, DDIM(), 3).sample(vector_space(range(2)), 0)
    assert modes == [False] * 3
    assert denoiser.training
    assert denoiser.network.training


@pytest.mark.parametrize("first", ["other inputs", "another timestep", "other samples"])
def test_gradients_are_of_the_samples_of_the_step_whatever_is_asked_before(first: str) -> None:
    """Classifier-free guidance that asks for the null label first, a look at another level, or elsewhere."""

    class Asks(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            if first == "other inputs":
                predict(x, step.timestep, shift=torch.full((6,), 5.0, dtype=x.dtype))
            elif first == "another timestep":
                predict(x, 3)
            else:
                predict(x + 100, step.timestep)
            return predict(x, step.timestep)

    class Shifted(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, shift: Tensor) -> Tensor:
            return DENOISER.network(x, timesteps) + shift[:, None]

    class Guide(nn.Module):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return x

    guided = DPS(Condition(Guide(), TARGET, half_square), 0.5)
    space = vector_space(range(6))
    space.inputs = {"shift": torch.zeros(6, dtype=torch.float64)}
    denoiser = Denoiser(Shifted(), SCHEDULE, "epsilon")
    alone, beside = (Sampler(denoiser, DDIM(), 4, g).sample(space, 0) for g in ([guided], [Asks(), guided]))
    torch.testing.assert_close(beside, alone, rtol=0, atol=0)


def test_observers_may_draw_noise_without_changing_the_samples() -> None:
    sampler = Sampler(DENOISER, DDIM(), 4)
    plain = sampler.sample(vector_space(range(6)), 0)
    looked = sampler.sample(vector_space(range(6)), 0, observers=[lambda x, step: step.noise()])
    torch.testing.assert_close(looked, plain, rtol=0, atol=0)


def test_parts_that_were_frozen_in_evaluation_mode_stay_so() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    network[0].eval()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network.double()

        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            return self.inner(x)

    denoiser = Denoiser(Wrapped(), SCHEDULE, "epsilon").train()
    network[0].eval()
    Sampler(denoiser, DDIM(), 2).sample(vector_space(range(3)), 0)
    assert (network.training, network[0].training, network[1].training) == (True, False, True)


@pytest.mark.parametrize("timestep", [-1, 100])
def test_timesteps_outside_the_schedule_are_refused(timestep: int) -> None:
    with pytest.raises(IndexError, match=rf"timestep {timestep} is outside 0 \.\. 99"):
        DENOISER(torch.zeros(2, 2, dtype=torch.float64), timestep)
