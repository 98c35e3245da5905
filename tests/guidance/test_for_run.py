"""Guidance as configurations write it: with gaps that a run fills in."""

import pytest
import torch
from problems import random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, LinearSchedule, Proposal, Run, Sampler
from tag_lightning.guidance import (
    DPS,
    AlignedMoves,
    Condition,
    ConstantStrength,
    Corruption,
    PolyakStrength,
    ProximalAlignment,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
    residual_norm,
)

PREDICTOR, OTHER = nn.Linear(2, 20), nn.Linear(2, 20)
CONDITION = Condition(nn.Identity(), torch.zeros(3, 2), residual_norm)
RUN = Run(PREDICTOR, {"nearness": CONDITION})


class Silent(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_gaps_are_filled_in_a_copy() -> None:
    template = TemporalAlignment()
    ready = template.for_run(RUN)
    assert ready.predictor is PREDICTOR
    assert template.predictor is None
    assert not hasattr(ready, "condition")


def test_given_parts_stay() -> None:
    ready = TemporalAlignment(OTHER, 0.5).for_run(Run(PREDICTOR))
    assert ready.predictor is OTHER
    assert isinstance(ready.strength, ConstantStrength)
    assert ready.strength.omega == 0.5


@pytest.mark.parametrize("kind", [ProximalAlignment, AlignedMoves])
def test_moves_without_a_predictor_name_the_class_that_was_written(
    kind: type[ProximalAlignment] | type[AlignedMoves],
) -> None:
    message = f"^{kind.__name__} has no predictor: pass predictor=..., or give the run one"
    guidance = kind(DPS(CONDITION))
    with pytest.raises(ValueError, match=message):
        guidance.for_run(Run())
    x, step = random_vectors(3, 2), step_at(LinearSchedule(20), vector_space(range(3)), 9, 4)
    with pytest.raises(ValueError, match=message):
        guidance.changed(x, Proposal(x, 0.0, torch.zeros_like(x)), step)
    assert guidance.for_run(Run(PREDICTOR)).alignment.predictor is PREDICTOR
    assert kind(DPS(CONDITION), OTHER).for_run(Run(PREDICTOR)).alignment.predictor is OTHER


def test_the_default_strength_is_polyaks() -> None:
    assert isinstance(TemporalAlignment(PREDICTOR).for_run(Run()).strength, PolyakStrength)


def test_the_run_fills_in_nothing_that_guidance_does_not_ask_for() -> None:
    """A foreign guidance may mean something else by an attribute of the same name."""

    class Foreign(Guidance):
        def __init__(self) -> None:
            self.strength = self.predictor = self.conditions = None

    ready = Foreign().for_run(Run(PREDICTOR, {"nearness": CONDITION}))
    assert (ready.strength, ready.predictor, ready.conditions) == (None, None, None)


def test_conditions_to_look_ahead_with_are_completed_as_well() -> None:
    template = TemporalAlignment(conditions=[DPS(scale=2.0)])
    ready = template.for_run(RUN)
    assert ready.conditions[0].condition is CONDITION
    assert ready.conditions[0].scale == 2
    assert template.conditions[0].condition is None


@pytest.mark.parametrize("kind", [TemporalAlignment, TemporalAlignmentAfterStep])
def test_kinds_survive(kind: type[TemporalAlignment]) -> None:
    assert type(kind().for_run(RUN)) is kind


def test_guidance_without_gaps_is_complete() -> None:
    for guidance in (Guidance(), Corruption(0.1), DPS(CONDITION), TemporalAlignment(PREDICTOR)):
        assert isinstance(guidance.for_run(Run()), type(guidance))


@pytest.mark.parametrize(
    ("guidance", "missing"),
    [
        (TemporalAlignment(), "TemporalAlignment has no predictor: pass predictor="),
        (TemporalAlignmentAfterStep(), "TemporalAlignmentAfterStep has no predictor"),
        (DPS(), "DPS has no condition: pass"),
        (TemporalAlignment(PREDICTOR, 0.1, [DPS()]), "DPS has no condition"),
    ],
)
def test_gaps_left_open_are_named_before_and_while_sampling(guidance: Guidance, missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        guidance.for_run(Run())
    sampler = Sampler(Denoiser(Silent(), LinearSchedule(20), "epsilon"), DDIM(), 3, [guidance])
    with pytest.raises(ValueError, match=missing):
        sampler.sample(vector_space(range(3), dtype=torch.float32), seed=0)
