"""What a log shows while samples are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning import progress
from tag_lightning.cli import main


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prints a line at every opportunity."""
    monkeypatch.setattr(progress.Progress.__init__, "__defaults__", (True, 0.0))


@pytest.mark.usefixtures("impatient")
def test_the_real_data_and_every_arm_say_how_long_they_take(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, "--sampling.arms={unguided: {}, again: {}}"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "(arm " in line or "real data:" in line]
    assert lines[0].startswith("measuring the real data: 1 of ")
    # Two chunks of four and two samples, in four steps each.
    reached = [line.split(": ")[1].split(" samples")[0] for line in lines if "unguided (arm 1 of 2)" in line]
    assert reached == [*(f"{done} of 6" for done in (1, 2, 3, 4, 4, 5, 5, 6)), "6"]
    assert all(line.endswith(" s left") or " in " in line for line in lines)


@pytest.mark.usefixtures("impatient")
def test_progress_that_is_not_wanted_is_not_shown(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(predictor_arguments("validate", tmp_path, tiny, "--trainer.enable_progress_bar=false"))
    out = capsys.readouterr().out
    assert "Guided sampling" in out
    assert "(arm " not in out
    assert "real data:" not in out
