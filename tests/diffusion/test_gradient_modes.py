"""Guidance needs gradients in places where Lightning has switched them off."""

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from problems import random_vectors, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, LinearSchedule, Prediction, Proposal, Sampler, Step
from tag_lightning.guidance import DPS, Condition, ConstantStrength, TemporalAlignment, TemporalAlignmentAfterStep

MODES = [nullcontext, torch.no_grad, torch.enable_grad, torch.inference_mode]


class Bend(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.tanh(x)


@pytest.fixture(scope="module")
def weights() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(2, 20).double(), nn.Linear(2, 3).double()


def guided_samples(predictor: nn.Module, guide: nn.Module) -> Tensor:
    """Everything that can be made while sampling is made here, under the mode in force."""
    schedule = LinearSchedule(20)
    target = torch.arange(3)
    guidance = [
        TemporalAlignment(predictor, ConstantStrength(0.3), [DPS(Condition(guide, target), 0.1)]),
        DPS(Condition(guide, target)),
        TemporalAlignmentAfterStep(predictor, 0.1),
    ]
    sampler = Sampler(Denoiser(Bend(), schedule, "epsilon"), DDIM(), 5, guidance)
    return sampler.sample(vector_space(range(3)), seed=0)


@pytest.mark.parametrize("mode", MODES[1:])
def test_guided_samples_are_the_same_under_every_gradient_mode(
    mode: type[AbstractContextManager], weights: tuple[nn.Module, nn.Module]
) -> None:
    expected = guided_samples(*weights)
    with mode():
        measured = guided_samples(*weights)
        assert not measured.is_inference()
        assert not measured.requires_grad
    torch.testing.assert_close(measured, expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_sampling_leaves_the_gradient_mode_as_it_found_it(
    mode: type[AbstractContextManager], weights: tuple[nn.Module, nn.Module]
) -> None:
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        guided_samples(*weights)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


def test_no_graph_is_recorded_where_no_guidance_asks_for_one() -> None:
    """Not even of a denoiser in training, which would keep the activations of a whole step."""
    recorded: list[bool] = []

    class Trainable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            recorded.append(torch.is_grad_enabled())
            return self.layer(x)

    class Look(Guidance):
        def correct(self, x: Tensor, step: Step, predict: object) -> Tensor:
            recorded.append(torch.is_grad_enabled())
            return x

        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            recorded.extend([torch.is_grad_enabled(), prediction.x0.requires_grad])
            return proposal

    with torch.enable_grad():
        sampler = Sampler(Denoiser(Trainable(), LinearSchedule(20), "epsilon"), DDIM(), 5, [Look()])
        sampler.sample(vector_space(range(3), dtype=torch.float32), seed=0)
    assert recorded == [False] * 4 * 5


@pytest.mark.parametrize("mode", MODES)
def test_the_time_linked_score_can_be_asked_for_under_every_gradient_mode(
    mode: type[AbstractContextManager], weights: tuple[nn.Module, nn.Module]
) -> None:
    predictor, x = weights[0], random_vectors(4, 2)
    expected = TemporalAlignment(predictor).time_linked_score(x, 3)
    with mode():
        score = TemporalAlignment(predictor).time_linked_score(x + 0, 3)
    torch.testing.assert_close(score, expected, rtol=0, atol=0)
    assert not x.requires_grad


def test_the_time_linked_score_takes_inputs_made_under_inference_mode() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return (x * mask).square()

    x = random_vectors(4, 2)
    expected = TemporalAlignment(Masked()).time_linked_score(x, 1, {"mask": torch.tensor([1.0, 0.5])})
    with torch.inference_mode():
        score = TemporalAlignment(Masked()).time_linked_score(x, 1, {"mask": torch.tensor([1.0, 0.5])})
    torch.testing.assert_close(score, expected, rtol=0, atol=0)
