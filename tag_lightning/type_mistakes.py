"""Values of the wrong type, in one sentence instead of all the types that jsonargparse tried."""

from __future__ import annotations

import ast
import re

_KEY = re.compile(r'Parser key "([\w.]+)":')
_ON_THE_WAY = re.compile(
    r"(- )?Problem with given class_path '[\w.]+':|(- )?Does not validate against any of the Union subtypes|"
    r"Subtypes: \[.*\]|Errors:"
)
_TYPE = re.compile(r"(?:- )?Expected a (?:<class '(\w+)'>|typing\.Literal(\[.*?\]))(?:\. Got value: (.*))?")
_CLASS = re.compile(r"(?:- )?Expected a dot import path string: (.*)")
_GIVEN_TYPE, _GIVEN = re.compile(r"Given value type: .*"), re.compile(r"Given value: (.*)")
_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}


def type_mistake(message: str) -> str | None:
    """Say in one sentence which setting has a value of the wrong type.

    Args:
        message: Text of jsonargparse's error, a tree of the types that were tried, one per line.

    Returns:
        For example ``data.batch_size must be a whole number, got many``; None unless every line up to the innermost
        type is known, so that another message is never replaced.
    """
    lines = [line.strip() for line in message.splitlines()]
    if not lines or not _KEY.fullmatch(lines[0]):
        return None
    keys: list[str] = []
    for place, line in enumerate(lines):
        if key := _KEY.fullmatch(line):
            keys.append(key[1])
        elif given := _CLASS.fullmatch(line):
            if any(lines[place + 1 :]):  # other types follow, and the value may be meant for one of them
                return None
            return f"{'.'.join(keys)} must be the name of a class, or its class_path and init_args, got {given[1]}"
        elif _TYPE.fullmatch(line):
            wanted, value = _alternatives(lines[place:])
            return None if value is None or not wanted else f"{'.'.join(keys)} must be {wanted}, got {value}"
        elif not _ON_THE_WAY.fullmatch(line):
            return None
    return None


def _alternatives(lines: list[str]) -> tuple[str, str | None]:
    """The types that the first lines name, and the value that follows them; nothing and None if one is unknown."""
    names: list[str] = []
    choices: list[str] = []
    for place, line in enumerate(lines):
        if (tried := _TYPE.fullmatch(line)) is None:
            end = lines[place : place + 2]
            given = len(end) == 2 and _GIVEN_TYPE.fullmatch(end[0]) and _GIVEN.fullmatch(end[1])
            return _joined(choices, names), given[1] if given else None
        kind, literal, value = tried.groups()
        if literal:
            choices += [str(choice) for choice in ast.literal_eval(literal)]
        elif kind in _NAMES:
            names.append(_NAMES[kind])
        else:
            return "", None
        if value is not None:
            return _joined(choices, names), value
    return "", None


def _joined(choices: list[str], names: list[str]) -> str:
    one_of = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
    return " or ".join([*one_of, *dict.fromkeys(names)])
