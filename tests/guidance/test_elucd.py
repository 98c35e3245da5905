"""EluCD against its published form written out, on a linear classifier."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import UNEVEN, exact_denoiser, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, ImageSpace, LinearSchedule, Prediction, Proposal, Run, Sampler, Step
from tag_lightning.guidance import DPS, Condition, EluCD, SquaredError

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
WEIGHTS = random_vectors(3, 2, seed=5)
LABELS = torch.tensor([0, 2, 1, 1])


def classifier() -> nn.Sequential:
    layer = nn.Linear(2, 3, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(WEIGHTS)
    return nn.Sequential(layer)


def condition() -> Condition:
    return Condition(classifier(), LABELS)


def move(guidance: EluCD, x0: Tensor, step: Step) -> Tensor:
    """The move of the proposal."""
    zero = Proposal(torch.zeros_like(x0), 0.0, torch.zeros_like(x0))
    return guidance.propose(zero, x0, Prediction(x0, x0), step).mean


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_the_move_is_the_published_one(discount: float) -> None:
    x0, tau = random_vectors(4, 2), 1.7
    guidance = EluCD(condition(), 3.0, joint_temperature=tau, margin_discount=discount)
    probabilities = (tau * discount * x0 @ WEIGHTS.T).softmax(1)
    gradient = tau * WEIGHTS[LABELS] - tau * discount * probabilities @ WEIGHTS
    step = step_at(SCHEDULE, vector_space(range(4)), 60, 50)
    a, after = (float(SCHEDULE.alphas_cumprod[t]) for t in (60, 50))
    variance = (1 - after) / (1 - a) * (1 - a / after)
    torch.testing.assert_close(move(guidance, x0, step), 3.0 * variance * gradient)  # of one step, the last


def test_the_weight_has_its_sine() -> None:
    levels = [
        (float(SCHEDULE.alphas_cumprod[99 - 25 * i]), float(SCHEDULE.alphas_cumprod[max(0, 74 - 25 * i)]))
        for i in range(4)
    ]
    variances = [(1 - b) / (1 - a) * (1 - a / b) for a, b in levels]
    base = step_at(SCHEDULE, vector_space(range(4)), 49, 24).__dict__ | {"levels": levels, "index": 2}
    expected = variances[2] + 0.3 * max(variances[:3]) * math.sin(math.pi / 4)
    assert EluCD(condition()).weight(Step(**base)) == pytest.approx(expected)


def test_the_classifier_sees_the_clipped_estimate() -> None:
    x0 = torch.full((4, 2), 5.0, dtype=torch.float64)
    space = ImageSpace((2,), range(4), dtype=torch.float64)
    step = step_at(SCHEDULE, space, 60, 50)
    torch.testing.assert_close(move(EluCD(condition()), x0, step), move(EluCD(condition()), x0.clamp(-1, 1), step))


def test_no_backward_pass_runs_through_the_denoiser_and_samples_are_drawn_to_the_class() -> None:
    guidance = EluCD(scale=4.0).for_run(Run(conditions={"label": condition()}))
    assert not guidance.needs_grad
    samplers = [Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(0.0), 20, g) for g in ([], [guidance])]
    plain, guided = (condition().log_likelihood(s.sample(vector_space(range(4)), 0)).mean() for s in samplers)
    assert guided > plain + 0.5


def test_relu_becomes_softplus_in_a_copy() -> None:
    network = nn.Sequential(nn.ReLU(), *classifier())
    guidance = EluCD(Condition(network, LABELS), softplus_beta=3.0)
    assert isinstance(network[0], nn.ReLU)
    assert isinstance(guidance.condition.predictor[0], nn.Softplus)
    assert guidance.condition.predictor[0].beta == 3.0
    with pytest.raises(ValueError, match="softplus_beta replaces every ReLU, but Sequential has none"):
        EluCD(condition(), softplus_beta=3.0)


@pytest.mark.parametrize("settings", [{"scale": -1.0}, {"joint_temperature": 0.0}, {"bump": math.inf}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be a finite number"):
        EluCD(**settings)


def test_a_condition_that_is_no_class_is_refused() -> None:
    quantity = Condition(classifier(), LABELS, SquaredError(1.0))
    with pytest.raises(ValueError, match="EluCD follows one condition on a class"):
        EluCD().for_run(Run(conditions={"alpha": quantity}))
    assert DPS().for_run(Run(conditions={"alpha": quantity})) is not None
