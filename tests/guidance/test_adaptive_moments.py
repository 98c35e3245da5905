"""Adam's moments advance once a step, however often it asks: against torch's Adam, and beside what changes nothing."""

import math
from collections.abc import Callable

import pytest
import torch
from class_mixture import ClassMixture
from problems import half_square, random_vectors
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Guidance, LinearSchedule, Predict, Prediction, Proposal, Sampler, Step
from tag_lightning.guidance import (
    CFG,
    DPS,
    MPGD,
    UGD,
    AdaptiveMoments,
    ClassifierGuidance,
    Condition,
    ConditionedGuidance,
    LangevinCorrector,
    TemporalAlignment,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
CLASSES = ClassMixture([[2.0, 0.5], [-1.0, 1.5]], 0.3, SCHEDULE)
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])
TARGET = random_vectors(6, 2, seed=3)
STEPS = 5


def near() -> Condition:
    return Condition(nn.Identity(), TARGET, half_square)


class Towards(ClassifierGuidance):
    """Towards the target, from noisy samples."""

    def noisy_gradient(self, x: Tensor, step: Step) -> Tensor:
        return TARGET - x.detach()


def sampled(*guidance: Guidance, recurrence: int = 1) -> Tensor:
    sampler = Sampler(CLASSES.denoiser(), DDIM(0.0), STEPS, guidance, recurrence)
    return sampler.sample(CLASSES.space(LABELS), 0)


GUIDED: dict[str, Callable[[], ConditionedGuidance]] = {
    "classifier": lambda: Towards(near(), 0.3),
    "variance": lambda: UGD(near(), 0.3, recurrence=1),
    "mean": lambda: UGD(near(), 0.0, 0.2, num_iterations=3, recurrence=1),
    "both": lambda: UGD(near(), 0.2, 0.1, num_iterations=2, recurrence=1),
    "proposal": lambda: DPS(near(), 0.3),
}


@pytest.mark.parametrize("recurrence", [1, 2])
@pytest.mark.parametrize("inner", GUIDED)
def test_a_contrast_that_changes_nothing_leaves_the_moments_alone(inner: str, recurrence: int) -> None:
    guidance = AdaptiveMoments(GUIDED[inner](), beta1=0.9, beta2=0.99)
    alone = sampled(guidance, recurrence=recurrence)
    torch.testing.assert_close(sampled(guidance, CFG(1.0), recurrence=recurrence), alone)
    assert not torch.allclose(alone, sampled(GUIDED[inner](), recurrence=recurrence))


BESIDE: dict[str, Callable[[], list[Guidance]]] = {
    "nothing": list,
    "contrast": lambda: [CFG(3.0)],
    "correction": lambda: [LangevinCorrector(0.1)],
    "both": lambda: [CFG(3.0), TemporalAlignment(nn.Linear(2, 100).double(), 0.1, [DPS(near(), 0.1)])],
}


@pytest.mark.parametrize("beside", BESIDE)
def test_the_moments_are_adams_whoever_asks(beside: str) -> None:
    gradients, scale = random_vectors(STEPS, 6, 2, seed=10), 0.3
    parameter = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=scale, betas=(0.9, 0.99), eps=1e-8, maximize=True)
    expected = []
    for gradient in gradients:
        before = parameter.detach().clone()
        parameter.grad = gradient
        adam.step()
        expected.append(parameter.detach() - before)
    answers: list[int] = []

    class Given(ClassifierGuidance):
        def noisy_gradient(self, x: Tensor, step: Step) -> Tensor:
            return gradients[step.index]

    class Compared(Guidance):
        def __init__(self, inner: list[Prediction]) -> None:
            super().__init__()
            self.inner = inner

        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            answers.append(step.index)
            guided, (plain,) = predict(x, step.timestep), self.inner
            self.inner.clear()
            torch.testing.assert_close(
                plain.epsilon - guided.epsilon, math.sqrt(1 - step.alpha_bar) * expected[step.index]
            )
            return guided

    class Plain(Guidance):
        def __init__(self, seen: list[Prediction]) -> None:
            super().__init__()
            self.seen = seen

        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            self.seen.append(predict(x, step.timestep))
            return self.seen[-1]

    seen: list[Prediction] = []
    sampled(Plain(seen), AdaptiveMoments(Given(near(), scale), 0.9, 0.99), Compared(seen), *BESIDE[beside]())
    times = {"nothing": 1, "contrast": 2, "correction": 2, "both": 4}[beside]
    assert answers == [k for k in range(STEPS) for _ in range(times)]


def test_mean_guidance_advances_them_by_every_iteration() -> None:
    gradients, scale = random_vectors(STEPS, 3, 6, 2, seed=11), 0.2
    parameter = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=scale, betas=(0.9, 0.99), eps=1e-8, maximize=True)
    asked: list[int] = []

    class Given(MPGD):
        def mean_gradient(self, x0: Tensor, step: Step) -> Tensor:
            asked.append(step.index)
            return gradients[step.index, asked.count(step.index) - 1]

    class Compared(AdaptiveMoments):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            moved, before = super().propose(proposal, x, prediction, step), parameter.detach().clone()
            for gradient in gradients[step.index]:
                parameter.grad = gradient
                adam.step()
            found = (moved.mean - proposal.mean) / math.sqrt(step.next_alpha_bar)
            torch.testing.assert_close(found, parameter.detach() - before)
            return moved

    sampled(Compared(Given(near(), scale, num_iterations=3), 0.9, 0.99))
    assert asked == [k for k in range(STEPS) for _ in range(3)]
