"""Errors of the command line, in one line each."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from tag_lightning.class_names import public_classes
from tag_lightning.type_mistakes import type_mistake

TRACEBACK_VARIABLE = "TAG_LIGHTNING_TRACEBACK"
_USAGE = "usage: fit --config NAME --OPTION VALUE, with a NAME such as digits/time_predictor; see also --help"
_LONGEST = 1000
_TRACEBACK = r"Traceback \(most recent call last\):\n"
_FROM_WORKER = re.compile(rf"Original {_TRACEBACK}(?:[\s\S]*\n{_TRACEBACK})?(?:[ \t].*\n)+[\w.]+: ([\s\S]*)")


class OneLineParser(LightningArgumentParser):
    """Prints a mistake in one line, instead of the usage of several hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # Parsers inside parsers try several types in turn, and raise rather than exit.
        if not self.exit_on_error:
            super().error(message, ex)
        if wants_traceback():
            raise ex or ValueError(message)
        print_error(f"{readable(message, ex, _option_names(self))} ({_USAGE})")
        self.exit(2)


def wants_traceback() -> bool:
    """Return whether the user asks for tracebacks instead of one line."""
    return bool(os.environ.get(TRACEBACK_VARIABLE))


def print_error(text: str, only_here: bool = False) -> None:
    """Write one line of error to stderr; if all processes make the same mistake, only the first writes it.

    Args:
        text: The error.
        only_here: True if this process may be the only one that failed, so that it has to write the error itself.
    """
    rank = getattr(rank_zero_only, "rank", 0) or 0
    if rank == 0 or only_here:
        sys.stderr.write(f"error{f' on process {rank}' if rank else ''}: {text}\n")


@rank_zero_only
def print_line(text: str) -> None:
    """Write one line to stderr, on the first process only."""
    # A progress bar or the terminal's ^C may have begun the line.
    start = "\n" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{start}{text}\n")


def one_line(message: str) -> str:
    """Return ``message`` in one line; of a DataLoader worker's traceback, the message of the error itself."""
    match = _FROM_WORKER.search(message)
    return " ".join((match[1] if match else message).split())


def readable(message: str, error: BaseException | None = None, options: Iterable[str] = ()) -> str:
    """Return a mistake in the arguments in one line, with the name that may have been meant.

    ``type_mistake`` tells values of the wrong type. All else rests on the types of the exceptions and on the names
    that exist, not on jsonargparse's wording: it consists of pieces of ``message`` and, in brackets, a suggestion.

    Args:
        message: Text of the mistake.
        error: Exception behind it; the one that it was raised from says more.
        options: Full names of the known options.
    """
    cause = _root_cause(error)
    reason = str(cause) if cause else ""
    close = _closest(_unknown_options(message, cause), {*options, *_parameters()}, 0.75)
    close = close or _closest(re.findall(r"\b[A-Z]\w+", reason), public_classes(), 0.8)
    if error is not None and (mistake := type_mistake(message)) is not None:
        message = mistake
    elif reason and reason in message and (close or isinstance(cause, KeyError | AttributeError | ImportError)):
        # Between its first line and the cause, jsonargparse lists everything it tried.
        first = message.strip().splitlines()[0]
        message = first if reason in first else f"{first} {reason}"
    # At the end of a long message, jsonargparse prints the configuration.
    return textwrap.shorten(message, _LONGEST, placeholder=" ...") + close


def raised_by(error: BaseException, package: str) -> bool:
    """Return whether the code that raised ``error`` belongs to ``package``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").partition(".")[0] == package


def _root_cause(error: BaseException | None) -> BaseException | None:
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    return error


def _unknown_options(message: str, cause: BaseException | None) -> list[str]:
    """Return the names that an error about options may be about: argparse writes ``--name``, a KeyError quotes it."""
    if cause is None:
        return re.findall(r"--([\w.]+)", message)
    return re.findall(r"'([\w.]+)'", str(cause)) if isinstance(cause, KeyError) else []


def _closest(names: Iterable[str], known: Iterable[str], cutoff: float) -> str:
    """Return the known name that is most like the first unknown one, as a question in brackets, or nothing."""
    known = set(known)
    for name in names:
        if name not in known and (match := difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)):
            return f" (did you mean {match[0]}?)"
    return ""


def _option_names(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield action.dest
        if isinstance(action, argparse._SubParsersAction):
            for verb, child in action.choices.items():
                yield verb
                yield from _option_names(child)


def _parameters() -> set[str]:
    """Return the names of the constructor parameters of our classes, which are options of their ``init_args``."""
    return {name for cls in public_classes().values() for name in inspect.signature(cls).parameters}
