"""Sweeps: the arms they expand into, and the ones that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tag_lightning.diffusion import Guidance, Run
from tag_lightning.evaluation import Arm
from tag_lightning.evaluation.arms import SweepPoint
from tag_lightning.evaluation.sweep import expanded
from tag_lightning.guidance import (
    CFG,
    DPS,
    MPGD,
    AdaptiveMoments,
    Condition,
    Corruption,
    FixedLengthSteps,
    MoreRedAS,
    NoiseProportionalStrength,
    Quantisation,
    ResidualDPS,
    Retiming,
    SelfGuidance,
    TemporalAlignment,
    TrustRegion,
)


def swept(guidance: list[Guidance], **sweep: Any) -> dict[str, Arm]:
    return expanded({"arm": Arm(guidance, sweep=sweep)})


def test_an_arm_becomes_one_per_value_in_its_place() -> None:
    arms = {"plain": Arm(), "dps": Arm([DPS()], sweep={"scale": [0.25, 1, 8.0]}), "last": Arm()}
    found = expanded(arms)
    assert list(found) == ["plain", "dps scale=0.25", "dps scale=1", "dps scale=8", "last"]
    assert [arm.point for arm in found.values()] == [
        None,
        *(SweepPoint("dps", "scale", value) for value in (0.25, 1, 8.0)),
        None,
    ]
    assert [arm.guidance[0].rho for arm in list(found.values())[1:4]] == [0.25, 1, 8]
    assert all(arm.sweep is None for arm in found.values())


def test_expanding_twice_changes_nothing_more() -> None:
    once = swept([DPS()], scale=[1, 2])
    assert expanded(once) == once


def test_other_arguments_and_other_guidance_stay_as_they_were() -> None:
    condition, tag = Condition(lambda x: x, 0), TemporalAlignment()
    first, second = swept([tag, MPGD(condition, 3.0, num_iterations=5, start=7, clip=0.5)], scale=[1, 2]).values()
    assert first.guidance[0] is second.guidance[0] is tag
    for arm, scale in ((first, 1), (second, 2)):
        changed = arm.guidance[1]
        assert isinstance(changed, MPGD)
        assert (changed.mu, changed.num_iterations, changed.start, changed.clip) == (scale, 5, 7, 0.5)
        assert changed.condition is condition


def test_parameters_inside_wrappers_are_found() -> None:
    nested = FixedLengthSteps(AdaptiveMoments(DPS(scale=2), beta2=0.5), kappa=0.1)
    (arm,) = swept([nested], scale=[4]).values()
    outer = arm.guidance[0]
    assert isinstance(outer, FixedLengthSteps)
    assert (outer.kappa, outer.guidance.beta2, outer.guidance.guidance.scale) == (0.1, 0.5, 4)
    assert nested.guidance.guidance.scale == 2


@pytest.mark.parametrize(
    ("guidance", "key", "attribute"),
    [
        (TrustRegion(DPS()), "kappa", "kappa"),
        (ResidualDPS(), "scale", "scale"),
        (Corruption(0.1), "sigma", "sigma"),
        (DPS(), "start", "start"),
        (TrustRegion(DPS()), "TrustRegion.stop", "stop"),
    ],
)
def test_a_parameter_is_one_of_the_constructor_inherited_or_not(guidance: Guidance, key: str, attribute: str) -> None:
    values = [3, 5]
    assert [getattr(arm.guidance[0], attribute) for arm in swept([guidance], **{key: values}).values()] == values


def test_the_strength_of_tag_becomes_a_constant() -> None:
    (arm,) = swept([TemporalAlignment(lambda x: x)], strength=[0.5]).values()
    ready = arm.guidance[0].for_run(Run())
    assert isinstance(ready, TemporalAlignment)
    assert ready.strength(None, None) == 0.5  # type: ignore[arg-type]


def test_a_parameter_of_a_strength_rule_is_found_as_well() -> None:
    (arm,) = swept([TemporalAlignment(strength=NoiseProportionalStrength(1.0))], omega_0=[0.25]).values()
    assert arm.guidance[0].strength.omega_0 == 0.25


def test_the_class_decides_between_equal_names() -> None:
    pair: list[Guidance] = [DPS(), MPGD()]
    with pytest.raises(ValueError, match=r"arm arm: sweep of scale may mean DPS.scale, MPGD.scale"):
        swept(pair, scale=[1])
    (arm,) = swept(pair, **{"MPGD.scale": [7]}).values()
    assert [entry.arguments for entry in arm.guidance] == [{}, {"scale": 7}]


def test_steps_are_swept_by_their_number() -> None:
    found = swept([DPS()], num_steps=[5, 10.0])
    assert {name: arm.num_steps for name, arm in found.items()} == {"arm num_steps=5": 5, "arm num_steps=10": 10}


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"scale": []}, "sweep of scale is empty"),
        ({}, "takes one parameter and its values"),
        ({"scale": [1], "clip": [1]}, "takes one parameter and its values, as in .*, got scale, clip"),
        ({"scale": 3}, r"takes a list of values, .*, got 3"),
        ({"scale": [1, "two"]}, "takes finite numbers, got 'two'"),
        ({"scale": [True]}, "takes finite numbers, got True"),
        ({"scale": [float("inf")]}, "takes finite numbers, got inf"),
        ({"scale": [1, -2]}, "sweep of scale: scale must be a finite number of at least 0, got -2"),
        ({"scale": [1, 1.0]}, "has 1 twice"),
        ({"num_steps": [2.5]}, "takes whole numbers, got 2.5"),
        ({"num_steps": [0]}, "num_steps must be at least 1, got 0"),
        ({"kappa": [1]}, "there are num_steps, DPS.scale, DPS.clip, DPS.start, DPS.stop"),
        ({"MPGD.scale": [1]}, "finds no such parameter"),
        ({"condition": [1]}, "finds no such parameter"),
    ],
)
def test_impossible_sweeps_are_refused_in_one_line(sweep: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^arm arm: .*{message}") as error:
        expanded({"arm": Arm([DPS()], sweep=sweep)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arm", "guided"),
    [
        (Arm([DPS()]), True),
        (Arm([TemporalAlignment(), DPS()]), True),
        (Arm([CFG()]), True),
        (Arm(conditional=True), True),
        (Arm(best_of=4), True),
        (Arm(), False),
        (Arm([Corruption(0.1), Retiming()]), False),
        (Arm([Quantisation(2), TemporalAlignment()]), False),
        (Arm([SelfGuidance()]), False),
        (Arm([MoreRedAS()]), False),
    ],
)
def test_a_point_knows_whether_its_samples_were_asked_for_something(arm: Arm, guided: bool) -> None:
    arm.sweep = {"num_steps": [2, 4]}
    assert [one.point is not None and one.point.guided for one in expanded({"arm": arm}).values()] == [guided] * 2


@pytest.mark.parametrize(
    ("guidance", "asked"),
    [
        ([DPS()], ""),
        ([DPS("ink")], "ink"),
        ([TemporalAlignment(), TrustRegion(DPS(["alpha", "gap"]))], "alpha, gap"),
        ([Corruption(0.1), DPS("label"), DPS("ink")], "label, ink"),
        ([DPS("label"), DPS()], ""),
        ([DPS(Condition(lambda x: x, 0))], ""),
        ([CFG(), DPS("ink")], ""),
        ([TemporalAlignment(conditions=[DPS("ink")]), DPS()], ""),
    ],
)
def test_a_point_knows_what_its_samples_were_asked_for(guidance: list[Guidance], asked: str) -> None:
    found = expanded({"arm": Arm(guidance, sweep={"num_steps": [2]})})["arm num_steps=2"].point
    assert found is not None
    assert found.asked == asked


def test_two_arms_never_share_a_name() -> None:
    with pytest.raises(ValueError, match="whose name another arm has"):
        expanded({"dps scale=1": Arm(), "dps": Arm([DPS()], sweep={"scale": [1]})})


@given(st.lists(st.floats(0, 1e12), min_size=1, unique=True))
def test_close_values_keep_names_of_their_own(values: list[float]) -> None:
    found = swept([DPS()], scale=values)
    assert [arm.guidance[0].scale for arm in found.values()] == values
