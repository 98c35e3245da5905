"""Steps that find their own length."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from problems import UNEVEN, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Guidance,
    LinearSchedule,
    Predict,
    Prediction,
    Proposal,
    Recurrence,
    Sampler,
    Step,
)
from tag_lightning.guidance import (
    DPS,
    AdaptiveLengthSteps,
    Condition,
    ConditionedGuidance,
    FixedLengthSteps,
    GuidanceWrapper,
    TemporalAlignment,
    TrustRegion,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
TARGET = torch.tensor([[2.0, -1.0]] * 6, dtype=torch.float64)


def near() -> Condition:
    return Condition(nn.Identity(), TARGET, half_square)


class Turning(DPS):
    """A gradient that turns by one angle per step, another for every sample."""

    angles = torch.tensor([0.0, 60.0, 89.0, 91.0, 120.0, 180.0], dtype=torch.float64).deg2rad()

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        turned = self.angles * (step.index + step.pass_index)
        return 7 * torch.stack((turned.cos(), turned.sin()), 1)


class Lengths(GuidanceWrapper):
    """Remembers by how much of the noise that the step leaves the guidance moves the mean."""

    def __init__(self, guidance: ConditionedGuidance) -> None:
        super().__init__(guidance)
        self.seen: list[Tensor] = []

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        moved = super().propose(proposal, x, prediction, step)
        if step.next_timestep is not None:
            noise = math.sqrt(2 * (1 - step.next_alpha_bar))
            self.seen.append((moved.mean - proposal.mean).norm(dim=1) / noise)
        return moved


def lengths(guidance: ConditionedGuidance, num_steps: int = 6, recurrence: Recurrence | None = None) -> list[Tensor]:
    watch = Lengths(guidance)
    Sampler(DENOISER, DDIM(0.0), num_steps, [watch], recurrence=recurrence).sample(vector_space(range(6)), 0)
    return watch.seen


def sampled(guidance: ConditionedGuidance) -> Tensor:
    return Sampler(DENOISER, DDIM(0.0), 6, [guidance]).sample(vector_space(range(6)), 0)


def test_lengths_grow_while_the_direction_is_kept_and_shrink_where_it_turns_back() -> None:
    seen = lengths(AdaptiveLengthSteps(Turning(near()), 0.05, rate=0.8, growth=1.6))
    torch.testing.assert_close(seen[0], torch.full((6,), 0.05, dtype=torch.float64))
    factors = (0.8 * Turning.angles.cos()).exp().clamp(1 / 1.6, 1.6)
    assert factors[0] == 1.6
    assert factors[-1] == 1 / 1.6
    for before, after in itertools.pairwise(seen):
        torch.testing.assert_close(after / before, factors)


def test_a_second_pass_is_a_move_of_its_own() -> None:
    seen = lengths(AdaptiveLengthSteps(Turning(near()), 0.05), recurrence=Recurrence(2))
    assert len(seen) == 10
    torch.testing.assert_close(seen[1] / seen[0], (3 * Turning.angles.cos()).exp().clamp(0.5, 2))


def test_a_sample_without_a_gradient_keeps_its_place_and_its_length() -> None:
    class Flat(DPS):
        def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return torch.zeros_like(x) if step.index == 1 else torch.ones_like(x)

    first, none, second, third, _ = lengths(AdaptiveLengthSteps(Flat(near()), 0.05))
    assert none.max() == 0
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(third, 2 * first)


def test_the_first_length_is_that_of_fixed_steps_and_every_run_begins_with_it() -> None:
    guidance = AdaptiveLengthSteps(DPS(near()))
    torch.testing.assert_close(lengths(guidance)[0], lengths(FixedLengthSteps(DPS(near())))[0])
    assert torch.equal(sampled(guidance), sampled(guidance))
    assert not torch.allclose(sampled(guidance), sampled(FixedLengthSteps(DPS(near()))))
    assert torch.equal(sampled(AdaptiveLengthSteps(DPS(near()), rate=0.0)), sampled(FixedLengthSteps(DPS(near()))))


def test_a_scale_changes_nothing_and_samples_do_not_see_each_other() -> None:
    torch.testing.assert_close(
        sampled(AdaptiveLengthSteps(DPS(near(), 1e-3))), sampled(AdaptiveLengthSteps(DPS(near(), 1e3)))
    )
    alone = Sampler(
        DENOISER, DDIM(0.0), 6, [AdaptiveLengthSteps(DPS(Condition(nn.Identity(), TARGET[:1], half_square)))]
    )
    torch.testing.assert_close(alone.sample(vector_space([3]), 0), sampled(AdaptiveLengthSteps(DPS(near())))[3:4])


class Towards(DPS):
    """A direction that never changes, or turns back at every move from the fourth on."""

    def __init__(self, turns: bool) -> None:
        super().__init__(near())
        self.turns = turns

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        sign = -1 if self.turns and step.index >= 3 and step.index % 2 else 1
        return sign * torch.ones_like(x)


def test_no_move_is_longer_than_the_longest_allowed() -> None:
    """A reward without a maximum never turns back."""
    kept = torch.stack(lengths(AdaptiveLengthSteps(Towards(turns=False), 0.05, max_kappa=0.3), 8))
    torch.testing.assert_close(kept[:, 0], torch.tensor([0.05, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3], dtype=torch.float64))
    turned = torch.stack(lengths(AdaptiveLengthSteps(Towards(turns=True), 0.1, max_kappa=0.2), 8))
    torch.testing.assert_close(turned[:4, 0], torch.tensor([0.1, 0.2, 0.2, 0.1], dtype=torch.float64))
    assert torch.stack(lengths(AdaptiveLengthSteps(Towards(turns=False), 0.2), 10)).max() == pytest.approx(1)


def test_a_default_length_above_the_longest_is_cut() -> None:
    assert lengths(AdaptiveLengthSteps(Towards(turns=False), max_kappa=0.01))[0].max() == pytest.approx(0.01)


def test_looking_ahead_of_the_denoiser_adapts_the_length_too() -> None:
    class Ahead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.detach())
            return torch.zeros(len(x), 100, dtype=x.dtype) + 0 * x.sum()

    class Constant(DPS):
        def displacement(self, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
            return torch.ones_like(x)

    predictor, noises = Ahead(), []
    tag = TemporalAlignment(predictor, 0.0, [AdaptiveLengthSteps(Constant(near()), 0.05)])

    class Watch(Guidance):
        def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
            noises.append((x, math.sqrt(2 * (1 - step.alpha_bar))))
            return x

    Sampler(DENOISER, DDIM(0.0), 5, [Watch(), tag]).sample(vector_space(range(6)), 0)
    ahead = [float((seen - x).norm(dim=1)[0]) / noise for seen, (x, noise) in zip(predictor.seen, noises, strict=True)]
    assert ahead == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8])


def test_every_answer_within_a_step_starts_from_the_move_before() -> None:
    guidance, step = AdaptiveLengthSteps(DPS(near()), 0.05), step_at(SCHEDULE, vector_space(range(6)), 60, 50)
    move = random_vectors(6, 2)
    first = guidance.bounded(move, 0.5, step)
    torch.testing.assert_close(guidance.bounded(move, 0.5, step), first)
    torch.testing.assert_close(guidance.bounded(-move, 0.5, step), -first)
    after = replace(step, index=step.index + 1)
    torch.testing.assert_close(guidance.bounded(move, 0.5, after), 2 * first)


def test_a_trust_region_bounds_them() -> None:
    seen = lengths(TrustRegion(AdaptiveLengthSteps(Turning(near()), 0.05), 0.06))
    assert torch.stack(seen).max() <= 0.06 * (1 + 1e-9)
    assert torch.stack(seen)[:, 0].max() > 0.059


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="rate must be"):
        AdaptiveLengthSteps(DPS(near()), rate=-1.0)
    with pytest.raises(ValueError, match="growth must be a finite number above 1, got 1"):
        AdaptiveLengthSteps(DPS(near()), growth=1.0)
    with pytest.raises(ValueError, match="max_kappa must be a finite number above 0, got 0"):
        AdaptiveLengthSteps(DPS(near()), max_kappa=0)
    with pytest.raises(ValueError, match=r"kappa 0\.3 is above max_kappa 0\.2; raise max_kappa"):
        AdaptiveLengthSteps(DPS(near()), 0.3, max_kappa=0.2)


def test_a_length_has_one_rule() -> None:
    with pytest.raises(ValueError, match="AdaptiveLengthSteps is inside another one"):
        AdaptiveLengthSteps(GuidanceWrapper(AdaptiveLengthSteps(DPS(near()))))
