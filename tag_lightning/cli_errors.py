"""Mistakes in a configuration, in one line that a newcomer understands."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

import callbacks
import datamodules
import tag_lightning.diffusion
import tag_lightning.guidance
import tag_lightning.modules
import tag_lightning.networks

_PACKAGES = (
    datamodules,
    callbacks,
    tag_lightning.modules,
    tag_lightning.networks,
    tag_lightning.diffusion,
    tag_lightning.guidance,
)
_UNKNOWN_KEY = re.compile(r"(?:does not accept option|Option) '([^']+)'|unrecognized arguments: (\S+)")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_UNKNOWN_MEMBER = re.compile(r"module '([^']+)' has no attribute '([^']+)'|No module named '([^']+)'")
_KEY = re.compile(r'^Parser key "([^"]+)":')
_GIVEN = re.compile(r"\n\s*Given value type:.*", re.DOTALL)
_MISSING_FILE = re.compile(r"File does not exist: '?([^'\n]+)")
_REQUIRED = re.compile(r"the following arguments are required: \w+\.(\w+)")
_VALUE = re.compile(r"Given value: (.*)")
# What jsonargparse lists beside the mistake itself: the other types it tried.
_OTHER_TYPES = ("Expected a <class", "Expected a path but", "Does not validate", "Subtypes:", "Errors:", "Not a valid")


class OneLineParser(LightningArgumentParser):
    """Answers a mistake with the one line that matters, instead of the usage of several hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # Parsers inside parsers try several types in turn, and raise rather than exit.
        if not self.exit_on_error:
            super().error(message, ex)
        print_error(readable(message, _options(self)))
        self.exit(2)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file; what is wrong with the file itself names it, which jsonargparse does not."""
        if Path(path).is_file():
            try:
                yaml.compose(Path(path).read_text(encoding="utf-8"), yaml.SafeLoader)
            except yaml.MarkedYAMLError as error:
                line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
                self.error(f"{path}{line}: {error.problem}; look for an unclosed bracket, a tab or a wrong indentation")
            except (yaml.YAMLError, UnicodeDecodeError):
                self.error(f"{path} is no text in UTF-8; --config takes a YAML file")
        return super().parse_path(path, *args, **kwargs)


def print_error(text: str, only_here: bool = False) -> None:
    """Write the one line of error; of several processes with the same mistake the first one does.

    Args:
        text: What went wrong.
        only_here: Whether it may have gone wrong on this process alone, which then has to say so.
    """
    rank = getattr(rank_zero_only, "rank", 0) or 0
    if rank == 0 or only_here:
        sys.stderr.write(f"error{f' on process {rank}' if rank else ''}: {text}\n")


def readable(message: str, options: Iterable[str] = ()) -> str:
    """What is wrong and what to do about it, in one line.

    Args:
        message: As jsonargparse, or a constructor called by it, puts it.
        options: Full names of the options there are, to suggest one from.
    """
    key = _KEY.match(message)
    where = f"{key[1]}: " if key else ""
    if match := _UNKNOWN_KEY.search(message):
        name = (match[1] or match[2]).lstrip("-").split("=")[0]
        close = _closest(name, [*options, *_parameters()])
        return f"{where}there is no option {name!r}{close}; look for a typing mistake, or see --help"
    if match := _UNKNOWN_CLASS.search(message):
        close = _closest(match[1], _classes())
        return f"{where}there is no class {match[1]}{close}; give its full name, as in datamodules.DigitsDataModule"
    if match := _UNKNOWN_MEMBER.search(message):
        name = f"{match[1]}.{match[2]}" if match[1] else match[3]
        close = _closest(name, [f"{package}.{c}" for c, package in _classes().items()])
        return f"{where}there is no {name}{close}; look for a typing mistake in class_path"
    if match := _MISSING_FILE.search(message):
        return f"there is no file {match[1]}; --config takes the path of a YAML file"
    if match := _REQUIRED.search(message):
        return f"no {match[1]} was given; start from a configuration: --config configs/digits/time_predictor.yaml"
    value = _VALUE.search(message)
    lines = [line.strip().removeprefix("- ") for line in _GIVEN.sub("", _KEY.sub("", message)).splitlines()]
    if value is None:
        return where + " ".join(" ".join(lines).split())
    mistakes = [line for line in lines if line and not line.startswith(_OTHER_TYPES)]
    return where + " ".join(" ".join(mistakes or [f"{value[1]!r} is not a value it can take"]).split())


def _options(parser: Any) -> Iterator[str]:
    """Names of a parser's options and of its subcommands'."""
    for action in parser._actions:
        yield action.dest
        for child in (getattr(action, "_name_parser_map", None) or {}).values():
            yield from _options(child)


def _classes() -> dict[str, str]:
    """Public classes of this project, with the package that has each."""
    return {name: package.__name__ for package in _PACKAGES for name in package.__all__}


def _parameters() -> set[str]:
    """Names of the constructor parameters of those classes."""
    found = [getattr(package, name) for package in _PACKAGES for name in package.__all__]
    constructors = [cls.__init__ for cls in found if inspect.isfunction(getattr(cls, "__init__", None))]
    return {parameter for constructor in constructors for parameter in inspect.signature(constructor).parameters}


def _closest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.75)
    return f" (did you mean {matches[0]}?)" if matches else ""
