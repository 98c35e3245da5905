"""Errors in one line: what is known is shortened, and nothing is replaced by a guess at its meaning."""

from __future__ import annotations

import argparse

import pytest

from tag_lightning.cli_errors import OneLineParser, one_line, readable

# jsonargparse's own wordings cut short or put into another context, those of other versions, and invented ones.
FOREIGN = [
    "Option 'depth' is not accepted",
    "Option market closed: 'depth' does not accept option traders",
    "Key 'model.depth' is not expected",
    "Extra inputs are not permitted: model -> depth",
    "the server gave: unrecognized arguments: --depth 3",
    "Expected a dot import path string: ./weights.pt",
    "Expected an instantiatable class, but Shape is abstract art",
    "Configuration 'a.yaml' could not be read\nFile does not exist: 'b.bin'\ncheck the mount",
    "No module named 'foo'; module 'bar' has no attribute 'baz'; install quux",
    "the following arguments are required: --alpha.beta or --gamma",
    "Parser key \"data\": Given value: 3\nGiven value type: <class 'int'>, but 4 came later",
    "Subtypes: [int, str] are fine; Errors: none\n- Expected a path but walked\n- Does not validate parking",
    "Given value: NestedArg(key='a.b', val='c')",
    "Parser key \"data\":\n  Expected a <class 'int'>",
    "Parser key \"data\":\n  Expected a <class 'tag.Own'>. Got value: 3",
    "Parser key \"data\":\n  Expected a <class 'int'>\n  so it was said. Given value: 3",
    "Parser key \"data\":\n  Errors:\n  - unheard of\n  - Expected a <class 'int'>. Got value: 3",
    "Note.\nParser key \"data\":\n  Expected a <class 'int'>. Got value: 3",
    "Problem with given class_path 'Mine': the following arguments are required: x, y",
    "Caught ValueError in DataLoader worker process 0.\nnote: retried",
    "Original Traceback (most recent call last): see the log\nnote: later",
    "\n\n  leading and trailing space \n",
]


def joined(message: str) -> str:
    return " ".join(message.split())


@pytest.mark.parametrize("message", FOREIGN)
def test_foreign_wordings_come_through(message: str) -> None:
    assert one_line(message) == joined(message)
    assert readable(message) == joined(message)
    options = ["model.width", "data.size"]
    for error in (ValueError(message), TypeError("other"), KeyError("other"), AttributeError("other"), ImportError()):
        assert readable(message, error, options) == joined(message)


@pytest.mark.parametrize("message", FOREIGN)
@pytest.mark.parametrize("kind", [KeyError, AttributeError, ModuleNotFoundError])
def test_only_what_lies_between_the_first_line_and_the_cause_is_left_out(
    message: str, kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    reason = str(kind("sise"))
    outer = TypeError(f"{message}\n  tried much\n  {reason}\n  tried more")
    outer.__cause__ = kind("sise")
    with pytest.raises(SystemExit):
        OneLineParser().error(str(outer), outer)
    (line,) = capsys.readouterr().err.splitlines()
    first = joined(message.strip().splitlines()[0])
    suggestion = " (did you mean size?)" if kind is KeyError else ""
    assert line.startswith(f"error: {first} {reason}{suggestion} (usage: ")


def test_a_suggestion_follows_the_original_text() -> None:
    for message in ("unrecognized arguments: --model.widht=None\n  or None", "--model.widht: never heard\n of it"):
        assert readable(message, None, ["model.width"]) == f"{joined(message)} (did you mean model.width?)"
    for message in ("Expected a dot import path string: SimplCNN", "SimplCNN? There is nothing of that kind"):
        assert readable(message, ValueError(message)) == f"{message} (did you mean SimpleCNN?)"


def test_names_that_exist_are_not_corrected() -> None:
    message = "--model.width and --data.size exclude each other"
    assert readable(message, None, ["model.width", "model.widths", "data.size"]) == message
    message = "SimpleCNN does not take this"
    assert readable(message, ValueError(message)) == message


def test_a_long_message_is_cut_but_not_its_suggestion() -> None:
    message = "SimplCNN " + "and so on " * 1000
    text = readable(f"{message}\n{message}", ValueError("SimplCNN"))
    assert text.startswith("SimplCNN and so on and so on ")
    assert len(text) < 1100
    assert text.endswith(" ... (did you mean SimpleCNN?)")


def test_a_workers_own_message_is_taken_out_of_its_traceback() -> None:
    frame = '  File "a.py", line 3, in load\n    raise Error\n'
    last = f"Traceback (most recent call last):\n{frame}ValueError: a.png is broken:\n  cut short\n"
    first = f"Traceback (most recent call last):\n{frame}OSError: truncated\n\nThis led to:\n\n"
    for traceback in (f"Original {last}", f"Original {first}{last}"):
        message = f"Caught ValueError in DataLoader worker process 0.\n{traceback}"
        assert one_line(message) == "a.png is broken: cut short"


def test_parsers_inside_parsers_raise() -> None:
    with pytest.raises(argparse.ArgumentError, match="wrong"):
        OneLineParser(exit_on_error=False).error("wrong")
