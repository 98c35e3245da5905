"""Moves that the time predictor shortens or turns, where its likelihood is a quadratic or a line."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import UNEVEN, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Guidance, LinearSchedule, Prediction, Proposal, Run, Sampler, Step
from tag_lightning.guidance import (
    DPS,
    MPGD,
    AlignedMoves,
    Condition,
    FixedLengthSteps,
    GuidanceWrapper,
    ProximalAlignment,
    TemporalAlignment,
    TrustRegion,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
TARGET = random_vectors(6, 2, seed=3)


class Odds(nn.Module):
    """A predictor of every timestep alike, whose ``-log p(t | x)`` is ``nll(x)``."""

    def __init__(self, nll: Callable[[Tensor], Tensor], typical: float | None) -> None:
        super().__init__()
        self.nll = nll
        if typical is not None:
            self.typical_nll = torch.full((100,), typical, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        # Column 50 has probability exp(-nll), the others share the rest.
        rest = (-torch.expm1(-self.nll(x))).log() - math.log(99)
        return torch.stack([-self.nll(x) if t == 50 else rest for t in range(100)], 1)


def bowl(x: Tensor) -> Tensor:
    return 0.5 + x.square().sum(1)


class Jump(DPS):
    """Moves the proposal by what it is told."""

    def __init__(self, move: Tensor) -> None:
        super().__init__(Condition(nn.Identity(), TARGET, half_square))
        self.move = move

    def mean_move(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        return self.move


def moved(wrapper: GuidanceWrapper, x: Tensor) -> Tensor:
    """The move that ``wrapper`` makes of a proposal that ends at ``x``."""
    noise = random_vectors(6, 2, seed=7)
    proposal = Proposal(x - 0.3 * noise, 0.3, noise)
    step = step_at(SCHEDULE, vector_space(range(6)), 60, 50)
    return wrapper.propose(proposal, x, Prediction(x, x), step).mean - proposal.mean


def test_a_move_is_halved_until_the_sample_stays_typical() -> None:
    move = torch.tensor([[0.1, 0.0], [1.0, 0.0], [1.5, 0.0], [3.0, 0.0], [9.0, 0.0], [99.0, 0.0]]).double()
    # Typical below radius 1: 0.1 and 1 fit, 1.5 and 3 are halved once and twice, 9 four times, 99 not at all.
    wrapper = ProximalAlignment(Jump(move), Odds(bowl, 1.5 + 1e-9), halvings=4)
    factors = torch.tensor([1, 1, 1 / 2, 1 / 4, 1 / 16, 0]).double()
    torch.testing.assert_close(moved(wrapper, torch.zeros(6, 2).double()), factors[:, None] * move)


def test_a_sample_that_is_atypical_already_may_move_as_long_as_that_gets_no_worse() -> None:
    start = torch.tensor([[2.0, 0.0]] * 6).double()
    move = torch.tensor([[-1.0, 0], [-3.9, 0], [-5.0, 0], [0.5, 0], [0, 0.1], [0, 0]]).double()
    wrapper = ProximalAlignment(Jump(move), Odds(bowl, 1.0))
    factors = torch.tensor([1, 1, 1 / 2, 0, 0, 1]).double()
    torch.testing.assert_close(moved(wrapper, start), factors[:, None] * move)


def test_no_result_is_less_typical_than_it_was_or_than_real_data() -> None:
    predictor = Odds(bowl, 1.2)
    for seed in range(5):
        start, move = random_vectors(6, 2, seed=seed), random_vectors(6, 2, seed=seed + 50, scale=2.0)
        after = bowl(start + moved(ProximalAlignment(Jump(move), predictor), start))
        assert (after <= bowl(start).clamp(min=1.2) + 1e-12).all()


SLOPE = torch.tensor([0.3, -0.4]).double()


def line(x: Tensor) -> Tensor:
    return 3 + x @ SLOPE


@pytest.mark.parametrize("typical", [0.0, 3.2])
def test_the_move_is_the_nearest_one_that_keeps_the_likelihood(typical: float) -> None:
    """With a linear predictor the half-space is exact, and the projection has a closed form."""
    start, move = 0.1 * random_vectors(6, 2, seed=1), random_vectors(6, 2, seed=2)
    got = moved(AlignedMoves(Jump(move), Odds(line, typical)), start)
    allowed = line(start).clamp(min=typical)
    too_far = line(start + move) > allowed
    assert too_far.any()
    assert not too_far.all()
    torch.testing.assert_close(got[~too_far], move[~too_far])
    torch.testing.assert_close(line(start + got)[too_far], allowed[too_far])
    removed = (move - got)[too_far]  # along the slope and nowhere else
    torch.testing.assert_close(removed[:, 0] * SLOPE[1], removed[:, 1] * SLOPE[0])


def test_a_predictor_without_a_slope_changes_no_move() -> None:
    move = random_vectors(6, 2, seed=2)
    flat = Odds(lambda x: 3 + 0 * x.sum(1), 5.0)
    for wrapper in (AlignedMoves(Jump(move), flat), ProximalAlignment(Jump(move), flat)):
        torch.testing.assert_close(moved(wrapper, torch.zeros(6, 2).double()), move)


def dps() -> DPS:
    return DPS(Condition(nn.Identity(), TARGET, half_square), 2.0)


def sampled(*guidance: Guidance) -> Tensor:
    return Sampler(DENOISER, DDIM(0.0), 6, guidance).sample(vector_space(range(6)), 0)


class Anywhere(nn.Module):
    """The uniform posterior: every sample is typical."""

    typical_nll = torch.full((100,), math.log(100) + 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.sum(1, keepdim=True).expand(-1, 100)


@pytest.mark.parametrize("wrap", [ProximalAlignment, AlignedMoves])
def test_where_everything_is_typical_only_the_last_step_differs(wrap: Callable[..., GuidanceWrapper]) -> None:
    steps_before_the_last = dps()
    steps_before_the_last.stop = 17
    torch.testing.assert_close(sampled(wrap(dps(), Anywhere())), sampled(steps_before_the_last))


@pytest.mark.parametrize("wrap", [ProximalAlignment, AlignedMoves])
def test_they_compose_with_bounds_and_with_tag_and_take_the_predictor_of_the_run(
    wrap: Callable[..., GuidanceWrapper],
) -> None:
    run = Run(Anywhere(), {"near": Condition(nn.Identity(), TARGET, half_square)}, 0.1)
    arms: list[list[Guidance]] = [
        [wrap(TrustRegion(DPS(), 0.05)), TemporalAlignment()],
        [TemporalAlignment(), TrustRegion(wrap(MPGD()), 0.05)],
        [TemporalAlignment(), wrap(FixedLengthSteps(DPS()), start=80)],
    ]
    for arm in arms:
        assert sampled(*(entry.for_run(run) for entry in arm)).isfinite().all()
    with pytest.raises(ValueError, match="has no predictor"):
        wrap(DPS()).for_run(Run(conditions=run.conditions))


@pytest.mark.parametrize("wrap", [ProximalAlignment, AlignedMoves])
def test_without_a_measured_likelihood_they_say_what_is_missing(wrap: Any) -> None:
    with pytest.raises(ValueError, match=f"{wrap.__name__} needs a time predictor with a measured typical_nll"):
        sampled(wrap(dps(), Odds(bowl, None)))


def test_negative_halvings_are_refused() -> None:
    with pytest.raises(ValueError, match="halvings must be at least 0, got -1"):
        ProximalAlignment(dps(), halvings=-1)
