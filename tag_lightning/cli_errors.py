"""Mistakes in a configuration, in one line that a newcomer understands."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

import tag_lightning.callbacks
import tag_lightning.datamodules
import tag_lightning.diffusion
import tag_lightning.guidance
import tag_lightning.modules
import tag_lightning.networks

_PACKAGES = (
    tag_lightning.datamodules,
    tag_lightning.callbacks,
    tag_lightning.modules,
    tag_lightning.networks,
    tag_lightning.diffusion,
    tag_lightning.guidance,
)
TRACEBACK_VARIABLE = "TAG_LIGHTNING_TRACEBACK"
_UNKNOWN_KEY = re.compile(r"(?:does not accept option|Option) '([^']+)'|unrecognized arguments: (\S+)")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_UNKNOWN_MEMBER = re.compile(r"module '([^']+)' has no attribute '([^']+)'|No module named '([^']+)'")
_KEY = re.compile(r'^Parser key "([^"]+)":')
_GIVEN = re.compile(r"\n\s*Given value type:.*", re.DOTALL)
_MISSING_FILE = re.compile(r"File does not exist: '?([^'\n]+)")
_REQUIRED = re.compile(r"the following arguments are required: \w+\.(\w+)")
_VALUE = re.compile(r"Given value: (.*)")
_TYPES = re.compile(r"Subtypes: \[(.*)\]")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but (\S+) is abstract")
_PART = re.compile(r"Given value: NestedArg\(key='([^'.]+)\.([^']+)', val='(.*)'\)")
_IN_CLASS = re.compile(r".*Problem with given class_path '([^']+)': (?:the following arguments are required: (.+))?")
# A worker sends its whole traceback along; its own message comes last.
_FROM_WORKER = re.compile(r"Caught \w+ in DataLoader worker process.*\n[\w.]+: (.*)", re.DOTALL)
# What jsonargparse lists beside the mistake itself: the other types it tried.
_OTHER_TYPES = ("Expected a <class", "Expected a path but", "Does not validate", "Subtypes:", "Errors:", "Not a valid")


class OneLineParser(LightningArgumentParser):
    """Answers a mistake with the one line that matters, instead of the usage of several hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # Parsers inside parsers try several types in turn, and raise rather than exit.
        if not self.exit_on_error:
            super().error(message, ex)
        if wants_traceback():
            raise ex or ValueError(message)
        text = readable(message, _options(self))
        if self._subcommands_action is not None and _UNKNOWN_KEY.search(message):
            text += "; options of a verb come after it, as in: fit --config FILE"
        print_error(text)
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


def wants_traceback() -> bool:
    """Whether errors are to be shown with all that led to them."""
    return bool(os.environ.get(TRACEBACK_VARIABLE))


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
    if match := _FROM_WORKER.match(message):
        message = match[1]
    key = _KEY.match(message)
    where = f"{key[1]}: " if key else ""
    if match := _UNKNOWN_KEY.search(message):
        name = (match[1] or match[2]).lstrip("-").split("=")[0]
        if match[2] and name.endswith((".yaml", ".yml")):
            return f"{name} stands alone; a configuration is given by --config {name}"
        close = _closest(name, [*options, *_parameters()])
        return f"{where}there is no option {name!r}{close}; look for a typing mistake, or see --help"
    if key and (match := _PART.search(message)):
        whole = f"--{key[1]}.{match[1]}='{{{match[2]}: {match[3]}}}'"
        return f"{where}{match[1]} can only be given as a whole, as in {whole}"
    if match := _UNKNOWN_CLASS.search(message):
        close = _closest(match[1], _classes())
        return f"{where}there is no class {match[1]}{close}; --help lists the classes"
    if match := _UNKNOWN_MEMBER.search(message):
        name = f"{match[1]}.{match[2]}" if match[1] else match[3]
        close = _closest(name, [f"{package}.{c}" for c, package in _classes().items()])
        return f"{where}there is no {name}{close}; look for a typing mistake in class_path"
    if match := _MISSING_FILE.search(message):
        return f"there is no file {match[1]}; --config takes the path of a YAML file"
    if match := _REQUIRED.search(message):
        return f"no {match[1]} was given; start from a configuration: --config configs/digits/time_predictor.yaml"
    if match := _ABSTRACT.search(message):
        return f"{where}several kinds exist, name one by its class_path: {', '.join(_kinds_of(match[1]))}"
    return where + _mistake(message)


def _mistake(message: str) -> str:
    """What jsonargparse has against a value, without the other types that it tried."""
    value = _VALUE.search(message)
    lines = [line.strip().removeprefix("- ") for line in _GIVEN.sub("", _KEY.sub("", message)).splitlines()]
    if value is None:
        text = " ".join(lines)
    else:
        mistakes = [line for line in lines if line and not line.startswith(_OTHER_TYPES)]
        text = " ".join(mistakes) or f"{value[1]!r} is not a value it can take{_takes(message)}"
    text = _IN_CLASS.sub(lambda m: f"{m[1]} needs {m[2]}" if m[2] else f"{m[1]}: ", text)
    return " ".join(text.split())


def _takes(message: str) -> str:
    types = _TYPES.search(message)
    if types is None:
        return ""
    named = re.sub(r"<class '([^']+)'>", r"\1", types[1].replace("<class 'NoneType'>", "null"))
    return "; it takes " + " or ".join(re.split(r", (?![^\[]*\])", named))


def _options(parser: Any) -> Iterator[str]:
    """Names of a parser's options and of its subcommands'."""
    for action in parser._actions:
        yield action.dest
        for child in (getattr(action, "_name_parser_map", None) or {}).values():
            yield from _options(child)


def _classes() -> dict[str, str]:
    """Public classes of this project, with the package that has each."""
    named = {name: package for package in _PACKAGES for name in package.__all__}
    return {name: package.__name__ for name, package in named.items() if inspect.isclass(getattr(package, name))}


def _kinds_of(base: str) -> list[str]:
    """Full names of the public classes of this project that are of an abstract one."""
    every = {f"{package}.{name}": getattr(sys.modules[package], name) for name, package in _classes().items()}
    return [full for full, cls in every.items() if issubclass(cls, every[base]) and not inspect.isabstract(cls)]


def _parameters() -> set[str]:
    """Names of the constructor parameters of those classes."""
    found = [getattr(sys.modules[package], name) for name, package in _classes().items()]
    constructors = [cls.__init__ for cls in found if inspect.isfunction(cls.__init__)]
    return {parameter for constructor in constructors for parameter in inspect.signature(constructor).parameters}


def _closest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, sorted(set(known) - {name}), n=1, cutoff=0.75)
    return f" (did you mean {matches[0]}?)" if matches else ""
