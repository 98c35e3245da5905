"""The course of the learning rate, its settings, and runs that are resumed for longer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from tag_lightning.modules import WarmUpStableDecay

RATE = 0.5


def optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=RATE)


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return seen


def test_it_warms_up_stays_and_decays_like_one_minus_the_root() -> None:
    seen = rates(WarmUpStableDecay(optimizer(), 20, warm_up_steps=4, decay_share=0.4), 20)
    assert seen[:4] == pytest.approx([RATE * k / 4 for k in (1, 2, 3, 4)])
    assert seen[4:13] == [RATE] * 9
    assert seen[12:] == pytest.approx([RATE * (1 - (k / 8) ** 0.5) for k in range(8)])


@given(total=st.integers(1, 60), share=st.floats(0, 1), warm_up=st.integers(1, 60))
def test_every_rate_lies_between_zero_and_the_optimizers_own(total: int, share: float, warm_up: int) -> None:
    schedule = WarmUpStableDecay(optimizer(), total, warm_up, share)
    seen, warm_up = rates(schedule, total), schedule.warm_up_steps
    assert all(0 < rate <= RATE for rate in seen)
    assert all(later >= rate for rate, later in pairwise(seen[:warm_up]))
    assert all(later <= rate for rate, later in pairwise(seen[warm_up - 1 :]))


def test_a_run_resumes_where_it_stopped() -> None:
    whole = rates(WarmUpStableDecay(optimizer(), 20, 4, 0.4), 20)
    stopped = WarmUpStableDecay(optimizer(), 20, 4, 0.4)
    first = rates(stopped, 14)
    resumed, saved = WarmUpStableDecay(optimizer(), 20, 4, 0.4), stopped.state_dict()
    resumed.optimizer.load_state_dict(stopped.optimizer.state_dict())
    resumed.load_state_dict(saved)
    assert first + rates(resumed, 6) == whole


def test_a_run_resumed_before_its_decay_may_be_made_longer() -> None:
    stopped = WarmUpStableDecay(optimizer(), 20, 4, 0.4)
    rates(stopped, 10)
    resumed = WarmUpStableDecay(optimizer(), 40, 4, 0.4)
    resumed.load_state_dict(stopped.state_dict())
    assert rates(resumed, 30)[1:] == rates(WarmUpStableDecay(optimizer(), 40, 4, 0.4), 40)[11:]


def test_it_takes_over_from_a_constant_rate() -> None:
    constant = LinearLR(optimizer(), start_factor=0.01, total_iters=4)
    rates(constant, 10)
    resumed = WarmUpStableDecay(optimizer(), 20, 4, 0.4)
    resumed.load_state_dict(constant.state_dict())
    assert rates(resumed, 10)[1:] == rates(WarmUpStableDecay(optimizer(), 20, 4, 0.4), 20)[11:]


def test_a_short_run_has_a_shorter_warm_up() -> None:
    seen = rates(WarmUpStableDecay(optimizer(), 4, warm_up_steps=500, decay_share=0.5), 4)
    assert seen == pytest.approx([RATE / 2, RATE, RATE, RATE * (1 - 0.5**0.5)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs total_steps"),
        ({"total_steps": 9, "warm_up_steps": 0}, "warm_up_steps must be at least 1, got 0"),
        ({"total_steps": 9, "decay_share": 1.5}, r"decay_share must lie in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmUpStableDecay(optimizer(), **settings)
