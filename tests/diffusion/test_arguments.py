"""Objects are made again with the arguments that they were given, whatever class took them."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from tag_lightning.diffusion import Guidance


class Scaled(Guidance):
    """Doubles the scale that it passes on."""

    def __init__(self, scale: float, name: str = "plain", **interval: Any) -> None:
        super().__init__(**interval)
        if scale < 0:
            raise ValueError(f"scale must be at least 0, got {scale}")
        self.effect = 2 * scale
        self.name = name


class Renamed(Scaled):
    """Takes less than its base and passes other values on."""

    def __init__(self, weight: float = 1.0, **interval: Any) -> None:
        super().__init__(10 * weight, "renamed", **interval)


class Plain(Renamed):
    """Has the constructor of its base."""


def test_positional_and_keyword_arguments_go_by_name() -> None:
    assert Scaled(3, start=9).arguments == {"scale": 3, "start": 9}
    assert Guidance(5, 2).arguments == {"start": 5, "stop": 2}


def test_the_outermost_constructor_counts() -> None:
    for kind in (Renamed, Plain):
        changed = kind(2.0, stop=4).rebuilt(weight=3.0)
        assert type(changed) is kind
        assert (changed.effect, changed.name, changed.stop) == (60, "renamed", 4)


def test_a_refused_value_is_refused_as_in_the_constructor() -> None:
    with pytest.raises(ValueError, match="scale must be at least 0, got -1"):
        Scaled(1).rebuilt(scale=-1)


def test_copies_keep_the_arguments_and_the_original_stays() -> None:
    original = Renamed(2.0)
    for twin in (copy.copy(original), copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert twin.arguments == {"weight": 2.0}
        assert twin.rebuilt(weight=1.0).effect == 20
    assert original.effect == 40


def test_the_signature_of_a_class_is_still_its_constructor() -> None:
    assert list(inspect.signature(Renamed).parameters) == ["weight", "interval"]
    assert list(Renamed.parameters()) == list(Plain.parameters()) == ["weight", "start", "stop"]
    assert list(Scaled.parameters()) == ["scale", "name", "start", "stop"]
