"""SIGTERM and Ctrl-C while a command is still loading its libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tag_lightning.interruption import interruption

# Python runs this first. The signal arrives in an import that tolerates any failure, as those of optional packages do.
_SENDER = """
import os, sys, time

class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), {signum})
                time.sleep(60)
            except BaseException:
                pass

sys.meta_path.insert(0, Sender())
"""


def _signalled(folder: Path, module: str, signum: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that gets the signal when it imports that module."""
    (folder / "sitecustomize.py").write_text(_SENDER.format(module=module, signum=int(signum)))
    return subprocess.run(
        [sys.executable, "-m", "tag_lightning", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("tag_lightning.cli", ["fit", "--config=digits/time_predictor"]),
        ("torch", ["arms"]),
        ("yaml", ["stages", "--config=my_images"]),
    ],
    ids=["fit", "arms", "stages"],
)
def test_a_signal_while_loading_is_one_line(module: str, arguments: list[str], signum: int, tmp_path: Path) -> None:
    finished = _signalled(tmp_path, module, signum, *arguments)
    assert finished.returncode == 128 + signum, finished.stderr
    assert finished.stderr == (
        f"stopped by {signal.Signals(signum).name} before there was anything to keep; to start again, "
        "repeat the command\n"
    )


def test_only_the_first_of_several_processes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    finished = _signalled(tmp_path, "tag_lightning.cli", signal.SIGTERM, "fit")
    assert finished.returncode == 143
    assert finished.stderr == ""


def test_handlers_go_from_one_to_the_next_and_back_to_the_callers() -> None:
    def now() -> list[object]:
        return [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]

    before = now()
    with interruption.ending_the_process():
        loading = now()
        with interruption.installed():
            running = now()
        # What a finished command leaves behind is more than nothing.
        assert now() == before
    assert now() == before
    assert len({handlers[0] for handlers in (before, loading, running)}) == 3


def test_a_stop_between_two_stages_says_where_the_finished_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "signum", signal.SIGTERM)
    monkeypatch.setattr(interruption, "stages", tmp_path)
    assert interruption.message() == (
        f"stopped by SIGTERM: finished stages are in {tmp_path}; to go on, repeat the command"
    )
    monkeypatch.setattr(interruption, "stages", tmp_path / "none")
    assert "before there was anything to keep" in interruption.message()
