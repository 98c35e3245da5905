"""Networks left in training mode: a run puts all of them, wherever a guidance holds them, into evaluation mode."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, ImageSpace, LinearSchedule, Run, Sampler
from tag_lightning.evaluation_mode import networks_inside
from tag_lightning.guidance import (
    DPS,
    AdaptiveMoments,
    Condition,
    ConditionEvaluator,
    DiscriminatorEvaluator,
    DynamicCFG,
    EluCD,
    JointCondition,
    RegressedNoise,
    Retiming,
    Reward,
    TemporalAlignment,
    TimeEvaluator,
    TrustRegion,
)
from tag_lightning.networks import SimpleCNN
from tag_lightning.networks.time_predictor import ConditionedTimePredictor

TIMESTEPS, SHAPE, TARGET = 20, (1, 4, 4), torch.zeros(2, dtype=torch.long)


class Forgetful(nn.Module):
    """Logits or one number for every sample, with half of its features dropped in training."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout()
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(16, outputs))

    def forward(self, x: Tensor, *rest: Any, **inputs: Any) -> Tensor:
        return self.rest(self.dropout(x.flatten(1)))

    def first(self, x: Tensor) -> Tensor:
        return self(x)[:, 0]


class Halving(nn.Module):
    """A denoiser without weights."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return 0.5 * x


def condition(network: nn.Module) -> Condition:
    return Condition(network, TARGET)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: TemporalAlignment(net, strength=0.5),
        lambda net: TemporalAlignment(Forgetful(TIMESTEPS).eval(), strength=0.5, conditions=[DPS(condition(net))]),
        lambda net: DPS(condition(net)),
        lambda net: DPS(JointCondition([condition(Forgetful(3).eval()), condition(net)])),
        lambda net: TrustRegion(AdaptiveMoments(DPS(condition(net)))),
        lambda net: EluCD(condition(net), softplus_beta=1.0),
        lambda net: DPS(Reward(net.first)),
        lambda net: DPS().for_run(Run(conditions={"label": condition(net)})),
    ],
)
def test_a_run_does_not_depend_on_the_mode_that_networks_are_left_in(make: Any) -> None:
    torch.manual_seed(0)
    network = Forgetful(TIMESTEPS)
    guidance = make(network)
    sampler = Sampler(Denoiser(Halving(), LinearSchedule(TIMESTEPS), "epsilon"), DDIM(), 3, [guidance])
    space = ImageSpace(SHAPE, range(2))
    network.eval()
    modes = [part.training for part in network.modules()]
    evaluated = sampler.sample(space, 0)
    assert [part.training for part in network.modules()] == modes
    for one in networks_inside(guidance):
        one.train()
    network.rest.eval()
    modes = [part.training for part in network.modules()]
    assert torch.equal(sampler.sample(space, 0), evaluated)
    assert [part.training for part in network.modules()] == modes == [True, True, False, False, False]


def test_modes_come_back_after_an_error() -> None:
    network = Forgetful(TIMESTEPS - 1)
    sampler = Sampler(
        Denoiser(Halving(), LinearSchedule(TIMESTEPS), "epsilon"), DDIM(), 3, [TemporalAlignment(network)]
    )
    with pytest.raises(ValueError, match="the time predictor knows 19 timesteps"):
        sampler.sample(ImageSpace(SHAPE, range(2)), 0)
    assert network.training
    assert network.dropout.training


def test_networks_are_found_wherever_they_are() -> None:
    net = Forgetful(1)
    told = ConditionedTimePredictor(SimpleCNN(8, num_timesteps=20, widths=(8, 8), conditions={"label": 3}), {})
    holders = [
        Retiming(RegressedNoise(net)),
        DynamicCFG(evaluators=[DiscriminatorEvaluator(net)]),
        DynamicCFG(evaluators=[ConditionEvaluator(condition(net)), TimeEvaluator(told)]),
        DynamicCFG(evaluators=[TimeEvaluator(net)]),
        {"a": [({net},)]},
        partial(net.first, net),
        SimpleNamespace(deep=SimpleNamespace(net=net)),
    ]
    for holder in holders:
        assert net in networks_inside(holder)
    assert told in networks_inside(holders)
    assert networks_inside(holders).count(net) == 1


def test_circles_and_modules_of_python_end_the_search() -> None:
    circle: Any = Guidance()
    circle.itself, circle.library, circle.kind = [circle], torch, Forgetful
    assert networks_inside(circle) == []
