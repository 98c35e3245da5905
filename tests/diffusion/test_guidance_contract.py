"""The order of the hooks and what each of them is handed."""

import pytest
import torch
from problems import UNEVEN, exact_denoiser, vector_space
from torch import Tensor

from tag_lightning.diffusion import (
    DDIM,
    Guidance,
    LinearSchedule,
    Predict,
    Prediction,
    Proposal,
    SampleNoise,
    Sampler,
    Step,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)


class Diary(Guidance):
    """Notes every hook that runs, and leaves its mark on epsilon: times ``factor`` plus ``shift``."""

    def __init__(self, name: str, pages: list[str], factor: float = 1.0, shift: float = 0.0) -> None:
        self.name, self.pages = name, pages
        self.factor, self.shift = factor, shift

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        self.pages.append(f"correct {self.name}")
        return x

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        prediction = predict(x, step.timestep)
        self.pages.append(f"denoise {self.name}")
        return prediction._replace(epsilon=self.factor * prediction.epsilon + self.shift)

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        self.pages.append(f"propose {self.name}")
        return proposal


class Recorder(DDIM):
    """Keeps the predictions that reach the solver."""

    def __init__(self) -> None:
        super().__init__()
        self.predictions: list[Prediction] = []

    def propose(self, x: Tensor, prediction: Prediction, step: Step, predict: Predict) -> Proposal:
        self.predictions.append(prediction)
        return super().propose(x, prediction, step, predict)


def recorded(*guidance: Guidance) -> Prediction:
    """The prediction that reaches the solver in the first step."""
    solver = Recorder()
    Sampler(exact_denoiser(UNEVEN, SCHEDULE), solver, 1, guidance).sample(vector_space(range(3)), seed=0)
    return solver.predictions[0]


def first_noise() -> Tensor:
    """The samples that the first step denoises."""
    return vector_space(range(3)).noise(SampleNoise(0, range(3)))


def sample_once(*guidance: Guidance, num_steps: int = 1) -> Tensor:
    sampler = Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(), num_steps, guidance)
    return sampler.sample(vector_space(range(3)), seed=0)


def test_hooks_run_in_list_order() -> None:
    pages: list[str] = []
    sample_once(Diary("a", pages), Diary("b", pages))
    assert pages == ["correct a", "correct b", "denoise a", "denoise b", "propose a", "propose b"]


def test_the_solver_gets_what_later_guidance_makes_of_earlier_predictions() -> None:
    plain, marked = (recorded(*guidance) for guidance in ([], [Diary("a", [], factor=2.0), Diary("b", [], shift=1.0)]))
    torch.testing.assert_close(marked.epsilon, 2 * plain.epsilon + 1)


def test_corrections_see_the_denoiser_as_wrapped_by_the_guidance_before() -> None:
    seen: dict[str, Tensor] = {}

    class Ask(Guidance):
        def __init__(self, name: str) -> None:
            self.name = name

        def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
            seen[self.name] = predict(x, step.timestep).epsilon
            return x

    sample_once(Ask("first"), Diary("a", [], factor=3.0), Ask("second"), Diary("b", [], factor=5.0))
    torch.testing.assert_close(seen["second"], 3 * seen["first"])


def test_a_prediction_at_another_timestep_reaches_the_guidance_before_as_such() -> None:
    seen: list[tuple[int, float]] = []

    class Inner(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            seen.append((step.timestep, step.alpha_bar))
            return predict(x, step.timestep)

    class Elsewhere(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            return predict(x, 12)

    prediction = recorded(Inner(), Elsewhere())
    assert seen == [(12, float(SCHEDULE.alphas_cumprod[12]))]
    x = first_noise()
    torch.testing.assert_close(prediction.epsilon, exact_denoiser(UNEVEN, SCHEDULE)(x, 12).epsilon)


def test_proposals_are_chained() -> None:
    class Add(Guidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            return proposal.moved(torch.ones_like(x))

    class Fixed(Guidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            return Proposal(torch.full_like(x, 4.0), 0.5, torch.full_like(x, 2.0))

    assert sample_once(Fixed(), Add()).unique().tolist() == [6]
    assert sample_once(Add(), Fixed()).unique().tolist() == [5]


@pytest.mark.parametrize("needs_grad", [False, True])
def test_the_graph_of_the_prediction_is_recorded_only_when_asked_for(needs_grad: bool) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    class Look(Guidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            seen.append((x.is_leaf and x.requires_grad, prediction.x0.requires_grad, proposal.mean.requires_grad))
            return proposal

    look = Look()
    look.needs_grad = needs_grad
    sample_once(Guidance(), look, num_steps=2)
    assert seen == [(needs_grad, needs_grad, False)] * 2


def test_guidance_that_overrides_nothing_changes_nothing() -> None:
    torch.testing.assert_close(sample_once(Guidance(), num_steps=5), sample_once(num_steps=5), rtol=0, atol=0)
