"""benchmarks.score_error: the error of a learned denoiser against the exact one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.score_error import main, measure


def test_a_denoiser_that_learned_longer_errs_less() -> None:
    short, long = (measure(2, num_samples=64, num_steps=steps, strength=0.3, seed=0) for steps in (1, 150))
    assert set(long) == {"undisturbed", "tag", "drift", "drift+tag", "corruption", "corruption+tag"}
    for steps in (short, long):
        assert list(steps["tag"]) == list(range(99, -1, -1))
    assert long["undisturbed"][50].median() < 0.5 * short["undisturbed"][50].median()


def test_it_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "error.png"
    main(["--num_steps", "2", "--num_samples", "4", "--seeds", "0", "1", "--out", str(picture)])
    printed = capsys.readouterr().out
    assert "median error of the predicted noise" in printed
    assert "80 .. 99" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
