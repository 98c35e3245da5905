"""Sweeps: one arm of a configuration as a curve of arms, one per value of a parameter."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tag_lightning.diffusion.arguments import Rebuildable
from tag_lightning.evaluation.arms import Arm, SweepPoint

_STEPS = "num_steps"


def expanded(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """The arms, each one with a ``sweep`` replaced by one arm per value, such as ``dps scale=0.25``.

    A swept parameter is ``num_steps``, or an argument of a guidance in the arm, of one that it wraps, or of a rule for
    the strength of TAG. ``DPS.scale`` names the class where several have that parameter. The guidance is constructed
    again for each value, which its constructor checks.

    Raises:
        ValueError: Names the arm and the sweep, if it is empty, has more than one parameter, an unknown or ambiguous
            one, or a value that is refused or given twice, or if two arms would have the same name.
    """
    found: dict[str, Arm] = {}
    for name, arm in arms.items():
        swept = arm.sweep is not None if isinstance(arm, Arm) else False
        for full_name, one in (_swept(name, arm) if swept else {name: arm}).items():
            if full_name in found:
                raise ValueError(f"arm {name}: its sweep has an arm {full_name}, whose name another arm has; rename it")
            found[full_name] = one
    return found


def _swept(name: str, arm: Arm) -> dict[str, Arm]:
    key, values = _only(name, arm.sweep)
    parameter = key.rpartition(".")[2]
    target = None if key == _STEPS else _target(name, arm, key)
    whole = target is None or not re.search(r"\bfloat\b", _annotation(target.parameters()[parameter]))
    guided = bool(arm.conditional) or arm.best_of > 1 or any(entry.steers for entry in arm.guidance)
    asked = "" if arm.conditional or arm.best_of > 1 else _asked(arm)
    points: dict[str, Arm] = {}
    for value in values:
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        if f"{name} {parameter}={text}" in points:
            raise ValueError(f"arm {name}: sweep of {key} has {text} twice")
        if whole and value != int(value):
            raise ValueError(f"arm {name}: sweep of {key} takes whole numbers, got {text}")
        try:
            point = _with(arm, target, parameter, int(value) if whole else value)
        except ValueError as error:
            raise ValueError(f"arm {name}: sweep of {key}: {error}") from error
        point.point = SweepPoint(name, parameter, value, guided, asked)
        points[f"{name} {parameter}={text}"] = point
    return points


def _asked(arm: Arm) -> str:
    """Names of the conditions that the guidance of an arm follows, joined by ", "; empty for all of the run's."""
    names: list[str] = []
    for entry in arm.guidance:
        if not entry.steers:
            continue
        condition = getattr(entry.innermost, "condition", None)
        if not isinstance(condition, str | list | tuple):
            return ""
        names += [condition] if isinstance(condition, str) else condition
    return ", ".join(dict.fromkeys(names))


def _only(name: str, sweep: Any) -> tuple[str, list[float]]:
    """The one parameter of a sweep and its values, checked."""
    example = "as in sweep: {scale: [0.5, 1, 2]}"
    if not isinstance(sweep, Mapping) or len(sweep) != 1:
        given = ", ".join(map(str, sweep)) if isinstance(sweep, Mapping) and sweep else "none"
        raise ValueError(
            f"arm {name}: sweep takes one parameter and its values, {example}, got {given}; give each parameter an arm "
            "of its own"
        )
    ((key, values),) = sweep.items()
    if not isinstance(values, list | tuple):
        raise ValueError(f"arm {name}: sweep of {key} takes a list of values, {example}, got {values!r}")
    if not values:
        raise ValueError(f"arm {name}: sweep of {key} is empty; give it at least one value, {example}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"arm {name}: sweep of {key} takes finite numbers, got {value!r}")
    return key, list(values)


def _target(name: str, arm: Arm, key: str) -> Rebuildable:
    """The object whose constructor has the swept parameter."""
    owner, _, parameter = key.rpartition(".")
    entries = {id(entry): entry for entry in _inside(arm.guidance)}.values()
    offered = [(entry, each) for entry in entries for each in _numbers(entry)]
    fitting = [entry for entry, each in offered if each == parameter and owner in ("", type(entry).__name__)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        named = ", ".join(f"{type(entry).__name__}.{parameter}" for entry in fitting)
        raise ValueError(f"arm {name}: sweep of {key} may mean {named}; name one of them, each of another class")
    candidates = dict.fromkeys(f"{type(entry).__name__}.{each}" for entry, each in offered)
    raise ValueError(
        f"arm {name}: sweep of {key} finds no such parameter; there are {', '.join([_STEPS, *candidates])}"
    )


def _inside(value: Any) -> Iterator[Rebuildable]:
    """Guidance and strengths in ``value``, those in their arguments included."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _inside(each)
    elif isinstance(value, Rebuildable):
        yield value
        yield from _inside(list(value.arguments.values()))


def _numbers(entry: Rebuildable) -> list[str]:
    """Names of the parameters that take a number."""
    return [name for name, one in entry.parameters().items() if re.search(r"\b(int|float)\b", _annotation(one))]


def _annotation(parameter: inspect.Parameter) -> str:
    return inspect.formatannotation(parameter.annotation)


def _with(arm: Arm, target: Rebuildable | None, parameter: str, value: float) -> Arm:
    """The arm with one value; without a target that of ``num_steps``."""
    if target is not None:
        return replace(arm, guidance=_replaced(arm.guidance, target, {parameter: value}), sweep=None)
    if value < 1:
        raise ValueError(f"num_steps must be at least 1, got {value}")
    return replace(arm, num_steps=int(value), sweep=None)


def _replaced(value: Any, target: Rebuildable, changed: Mapping[str, Any]) -> Any:
    """``value`` with ``target`` inside it constructed again; parts without it stay the same objects."""
    if value is target:
        return target.rebuilt(**changed)
    if isinstance(value, list | tuple):
        return type(value)(_replaced(each, target, changed) for each in value)
    if isinstance(value, Rebuildable) and any(each is target for each in _inside(value)):
        return value.rebuilt(**{name: _replaced(one, target, changed) for name, one in value.arguments.items()})
    return value
