"""Guidance as configurations write it: with gaps that a run fills in."""

import pytest
import torch
from problems import vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, LinearSchedule, Sampler
from tag_lightning.guidance import (
    DPS,
    Condition,
    ConstantStrength,
    Corruption,
    NoiseProportionalStrength,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
    residual_norm,
)

PREDICTOR, OTHER = nn.Linear(2, 20), nn.Linear(2, 20)
CONDITION = Condition(nn.Identity(), torch.zeros(3, 2), residual_norm)


class Silent(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_gaps_are_filled_in_a_copy() -> None:
    template = TemporalAlignment()
    bound = template.bind(predictor=PREDICTOR, condition=CONDITION)
    assert bound.predictor is PREDICTOR
    assert template.predictor is None
    assert not hasattr(bound, "condition")


def test_what_was_given_stays() -> None:
    bound = TemporalAlignment(OTHER, 0.5).bind(predictor=PREDICTOR, strength=2.0)
    assert bound.predictor is OTHER
    assert isinstance(bound.strength, ConstantStrength)
    assert bound.strength.omega == 0.5


def test_a_run_may_provide_the_strength_as_number_or_rule() -> None:
    as_number = TemporalAlignment(PREDICTOR).bind(strength=2.0).strength
    assert isinstance(as_number, ConstantStrength)
    assert as_number.omega == 2
    rule = NoiseProportionalStrength(0.3)
    assert TemporalAlignment(PREDICTOR).bind(strength=rule).strength is rule


def test_a_negative_strength_of_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        TemporalAlignment(PREDICTOR).bind(strength=-1.0)


def test_conditions_to_look_ahead_with_are_bound_as_well() -> None:
    template = TemporalAlignment(conditions=[DPS(scale=2.0)])
    bound = template.bind(predictor=PREDICTOR, condition=CONDITION)
    bound.require_complete()
    assert bound.conditions[0].condition is CONDITION
    assert bound.conditions[0].scale == 2
    assert template.conditions[0].condition is None


@pytest.mark.parametrize("kind", [TemporalAlignment, TemporalAlignmentAfterStep])
def test_kinds_survive_binding(kind: type[TemporalAlignment]) -> None:
    assert type(kind().bind(predictor=PREDICTOR)) is kind


def test_guidance_without_gaps_is_complete() -> None:
    for guidance in (Guidance(), Corruption(0.1), DPS(CONDITION), TemporalAlignment(PREDICTOR)):
        guidance.bind(predictor=None).require_complete()


@pytest.mark.parametrize(
    ("guidance", "missing"),
    [
        (TemporalAlignment(), "TemporalAlignment has no predictor: pass predictor="),
        (TemporalAlignmentAfterStep(), "TemporalAlignmentAfterStep has no predictor"),
        (DPS(), "DPS has no condition: pass condition="),
        (TemporalAlignment(PREDICTOR, 0.1, [DPS()]), "DPS has no condition"),
    ],
)
def test_gaps_left_open_are_named_before_and_while_sampling(guidance: Guidance, missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        guidance.require_complete()
    sampler = Sampler(Denoiser(Silent(), LinearSchedule(20)), DDIM(), 3, [guidance])
    with pytest.raises(ValueError, match=missing):
        sampler.sample(vector_space(range(3), dtype=torch.float32), seed=0)
