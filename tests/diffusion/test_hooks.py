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
    Sampler,
    Step,
    Transition,
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

    def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        self.pages.append(f"advance {self.name}")
        return x_next


def sample_once(*guidance: Guidance, num_steps: int = 1) -> Tensor:
    sampler = Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(), num_steps, guidance)
    return sampler.sample(vector_space(range(3)), seed=0)


def test_hooks_run_in_list_order() -> None:
    pages: list[str] = []
    sample_once(Diary("a", pages), Diary("b", pages))
    assert pages == ["correct a", "correct b", "denoise a", "denoise b", "advance a", "advance b"]


def test_later_guidance_acts_on_what_earlier_guidance_predicts() -> None:
    seen: list[Prediction] = []

    class Look(Guidance):
        def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            seen.append(prediction)
            return x_next

    sample_once(Look())
    sample_once(Diary("a", [], factor=2.0), Diary("b", [], shift=1.0), Look())
    torch.testing.assert_close(seen[1].epsilon, 2 * seen[0].epsilon + 1)


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
            seen.append((step.timestep, step.alpha_cumprod))
            return predict(x, step.timestep)

    class Elsewhere(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            return predict(x, 12)

    found: list[Prediction] = []

    class Compare(Guidance):
        def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            found.extend([prediction, exact_denoiser(UNEVEN, SCHEDULE)(x, 12)])
            return x_next

    sample_once(Inner(), Elsewhere(), Compare())
    assert seen == [(12, float(SCHEDULE.alphas_cumprod[12]))]
    torch.testing.assert_close(found[0].epsilon, found[1].epsilon)


def test_advance_is_chained_and_draw_comes_before_it() -> None:
    class Constant(Guidance):
        def draw(self, transition: Transition, noise: Tensor, step: Step) -> Tensor:
            return torch.full_like(transition.mean, 4.0)

    class Add(Guidance):
        def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return x_next + 1

    class Double(Guidance):
        def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return 2 * x_next

    assert sample_once(Add(), Double(), Constant()).unique().tolist() == [10]
    assert sample_once(Double(), Add(), Constant()).unique().tolist() == [9]


@pytest.mark.parametrize("needs_grad", [False, True])
def test_the_graph_of_the_prediction_is_recorded_only_when_asked_for(needs_grad: bool) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    class Look(Guidance):
        def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            seen.append((x.is_leaf and x.requires_grad, prediction.x0.requires_grad, x_next.requires_grad))
            return x_next

    look = Look()
    look.needs_grad = needs_grad
    sample_once(Guidance(), look, num_steps=2)
    assert seen == [(needs_grad, needs_grad, False)] * 2


def test_guidance_that_overrides_nothing_changes_nothing() -> None:
    torch.testing.assert_close(sample_once(Guidance(), num_steps=5), sample_once(num_steps=5), rtol=0, atol=0)
