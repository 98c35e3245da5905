"""Command lines that must fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tag_lightning.cli import main


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line, which must fail with this exit code, and returns its one line of error."""

    def run(arguments: list[str], code: int = 1) -> str:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run
