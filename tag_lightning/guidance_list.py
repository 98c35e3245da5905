"""The shipped guidance as text: ``python -m tag_lightning arms``."""

from __future__ import annotations

import inspect
import json
import textwrap

import tag_lightning.guidance
from tag_lightning.diffusion import Guidance

_BASES = (Guidance, tag_lightning.guidance.ConditionedGuidance, tag_lightning.guidance.GuidanceWrapper)
_WIDTH = 110
_INTRODUCTION = """\
Guidance methods for the arms of a comparison. An arm is one way of sampling: a list of these methods, as in
  sampling: {arms: {mine: {guidance: [{class_path: DPS, init_args: {scale: 2.0}}]}}}
Cost is in forward / backward passes per step; K noise draws, n moves of mean guidance, r passes of a recurrence."""


def shipped() -> list[type[Guidance]]:
    """The exported guidance classes that can be used, in the order of their names."""
    exported = (getattr(tag_lightning.guidance, name) for name in tag_lightning.guidance.__all__)
    classes = [one for one in exported if inspect.isclass(one) and issubclass(one, Guidance) and one not in _BASES]
    return sorted(classes, key=lambda one: one.__name__.lower())


def description(guidance: type[Guidance]) -> str:
    """One paragraph: name and first line of the docstring, cost, parameters with their defaults."""
    first_line = inspect.getdoc(guidance).partition("\n")[0]  # type: ignore[union-attr]
    parameters = ", ".join(_parameter(one) for one in guidance.parameters().values())
    lines = [first_line, f"Cost: {guidance.cost}", f"Parameters: {parameters}"]
    wrapped = [textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="    ") for line in lines]
    return "\n".join([guidance.__name__, *wrapped])


def main() -> None:
    """Print the list."""
    print(_INTRODUCTION, *map(description, shipped()), sep="\n\n")


def _parameter(one: inspect.Parameter) -> str:
    if one.default is inspect.Parameter.empty:
        return f"{one.name} (required)"
    default = list(one.default) if isinstance(one.default, tuple) else one.default
    if isinstance(default, str):
        return f"{one.name}={default}"
    plain = default is None or isinstance(default, bool | int | float | list)
    return f"{one.name}={json.dumps(default) if plain else f'{type(default).__name__}()'}"
