"""When guidance acts: intervals of timesteps, passes of a recurrence, memory of a run."""

from collections.abc import Callable

import pytest
import torch
from problems import UNEVEN, exact_denoiser, half_square, random_vectors, vector_space
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
from tag_lightning.guidance import DPS, Condition

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)
TARGET = random_vectors(6, 2, seed=3)


def sampled(*guidance: Guidance, num_steps: int, recurrence: int | None = None) -> Tensor:
    return Sampler(DENOISER, DDIM(), num_steps, guidance, recurrence).sample(vector_space(range(6)), seed=0)


class Watcher(Guidance):
    """Writes down where it acts, and counts in the memory of the run."""

    def __init__(self, start: int | None = None, stop: int | None = None) -> None:
        super().__init__(start, stop)
        self.seen: list[tuple[int, int, int]] = []

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        step.state["calls"] = step.state.get("calls", 0) + 1
        self.seen.append((step.timestep, step.pass_index, step.state["calls"]))
        return x


def test_steps_say_which_pass_they_are_and_memory_starts_afresh_once_a_run() -> None:
    watcher, other = Watcher(), Watcher()
    for _ in range(2):
        sampled(watcher, other, num_steps=2, recurrence=3)
    once = [(99, 0, 1), (99, 1, 2), (99, 2, 3), (49, 0, 4), (49, 1, 5), (49, 2, 6)]
    assert watcher.seen == other.seen == once * 2


@pytest.mark.parametrize(
    ("start", "stop", "acting"),
    [
        (None, None, [99, 74, 49, 24]),
        (74, None, [74, 49, 24]),
        (None, 49, [99, 74, 49]),
        (80, 30, [74, 49]),
        (10, None, []),
    ],
)
def test_guidance_acts_from_start_down_to_stop(start: int | None, stop: int | None, acting: list[int]) -> None:
    watcher = Watcher(start, stop)
    sampled(watcher, num_steps=4)
    assert [timestep for timestep, _, _ in watcher.seen] == acting


def test_outside_its_interval_a_guidance_leaves_no_trace_and_costs_no_graph() -> None:
    recorded: list[bool] = []

    class Look(Guidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            recorded.append(prediction.x0.requires_grad)
            return proposal

    guided = DPS(Condition(nn.Identity(), TARGET, half_square), 0.5, start=60, stop=30)
    sampled(guided, Look(), num_steps=4)
    assert recorded == [False, False, True, False]
    never = DPS(Condition(nn.Identity(), TARGET, half_square), 0.5, start=10)
    torch.testing.assert_close(sampled(never, num_steps=4), sampled(num_steps=4), rtol=0, atol=0)


@pytest.mark.parametrize("build", [Watcher, lambda start, stop: Recurrence(2, start, stop)])
def test_impossible_intervals_are_refused(build: Callable[[int, int], object]) -> None:
    with pytest.raises(ValueError, match="start is 10 and stop 20; sampling runs from large timesteps to small ones"):
        build(10, 20)
    with pytest.raises(ValueError, match="at least 0, got start 5 and stop -1"):
        build(5, -1)


def test_recurrence_may_be_asked_of_a_range_of_timesteps() -> None:
    visited: list[int] = []
    sampler = Sampler(DENOISER, DDIM(), 4, recurrence=Recurrence(3, start=80, stop=40))
    sampler.sample(vector_space(range(2)), 0, observers=[lambda x, step: visited.append(step.timestep)])
    assert visited == [99, 74, 74, 74, 49, 49, 49, 24]
    assert sampler.passes == [1, 3, 3, 1]


def test_a_method_may_bring_its_own_recurrence_unless_the_sampler_is_told_another() -> None:
    class Often(Guidance):
        recurrence = Recurrence(2, stop=50)

    class Oftener(Guidance):
        recurrence = Recurrence(3, start=80)

    assert Sampler(DENOISER, DDIM(), 4, [Often()]).passes == [2, 2, 1, 1]
    assert Sampler(DENOISER, DDIM(), 4, [Often(), Oftener()]).passes == [2, 3, 3, 3]
    assert Sampler(DENOISER, DDIM(), 4, [Often()], recurrence=1).passes == [1, 1, 1, 1]


def test_a_methods_own_recurrence_ends_where_it_stops_acting() -> None:
    class Often(Guidance):
        recurrence = Recurrence(2)

    assert Sampler(DENOISER, DDIM(), 4, [Often(start=80, stop=40)]).passes == [1, 2, 2, 1]
