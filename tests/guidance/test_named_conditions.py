"""Conditions that a run offers by name, and the squared error they measure quantities by."""

import pytest
import torch
from problems import step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import LinearSchedule, Run
from tag_lightning.guidance import DPS, Condition, JointCondition, SquaredError, TemporalAlignment

X0 = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
STEP = step_at(LinearSchedule(10), vector_space(range(2)), 5, 4)


class Column(nn.Module):
    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.column]


ALPHA = Condition(Column(0), torch.tensor([0.0, 1.0]), SquaredError(2.0))
MU = Condition(Column(1), torch.tensor([2.0, 2.0]), SquaredError(1.0))
OFFERED = {"alpha": ALPHA, "mu": MU}


def test_squared_error_counts_in_spreads() -> None:
    torch.testing.assert_close(ALPHA.log_likelihood(X0), torch.tensor([-0.25, -1.0]))
    both = SquaredError(torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(both(X0, torch.zeros(2, 2)), torch.tensor([0.25 + 16, 2.25 + 4]))


def test_a_name_takes_that_condition() -> None:
    assert DPS("mu").for_run(Run(conditions=OFFERED)).condition is MU


@pytest.mark.parametrize("names", [["alpha", "mu"], None])
def test_several_names_or_none_sum_the_log_likelihoods(names: list[str] | None) -> None:
    bound = DPS(names).for_run(Run(conditions=OFFERED))
    assert isinstance(bound.condition, JointCondition)
    torch.testing.assert_close(bound.condition.log_likelihood(X0), ALPHA.log_likelihood(X0) + MU.log_likelihood(X0))


def test_a_condition_that_was_given_stays() -> None:
    assert DPS(MU).for_run(Run(conditions={"alpha": ALPHA})).condition is MU


def test_another_run_takes_the_targets_of_the_next_chunk() -> None:
    template = DPS("alpha")
    template.for_run(Run(conditions=OFFERED))
    other = Condition(Column(0), torch.zeros(3), SquaredError(2.0))
    assert template.for_run(Run(conditions={"alpha": other})).condition is other
    assert template.condition == "alpha"


@pytest.mark.parametrize(("offered", "message"), [(OFFERED, "offers alpha, mu"), ({}, "offers none at all")])
def test_an_unknown_name_is_refused(offered: dict[str, Condition], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DPS("gap").for_run(Run(conditions=offered))


def test_names_are_found_where_tag_looks_ahead() -> None:
    bound = TemporalAlignment(nn.Identity(), conditions=[DPS("mu")]).for_run(Run(conditions=OFFERED))
    assert bound.conditions[0].condition is MU


def test_a_name_alone_guides_nothing() -> None:
    with pytest.raises(ValueError, match="has only the name of its condition, 'mu'"):
        DPS("mu").smoothed(X0, STEP)
    with pytest.raises(ValueError, match="has no condition"):
        DPS().smoothed(X0, STEP)
    with pytest.raises(ValueError, match=r"DPS has no condition: pass condition=\.\.\., or give the run a guide"):
        DPS().for_run(Run())
