"""The benchmark of TAG's moves finds that they help an image with too much noise, and how far they should go."""

from __future__ import annotations

import re

import pytest

from benchmarks import move_lengths


def test_moves_of_some_length_help_an_image_with_too_much_noise(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--count", "24", "--timesteps", "279", "--ratios", "1.4", "--caps", "0.0001", "0.3"]
    move_lengths.main(["digits/time_predictor", "digits", *few])
    printed = capsys.readouterr().out
    row = re.search(r"279 │ x 1.4 │ (\S+) +│ (\S+) +│ (\S+)", printed)
    assert row is not None, printed
    none, some, best = map(float, row.groups())
    assert none == pytest.approx(1, abs=0.002)
    assert 0.5 < some < 0.9
    assert best == 0.3


def test_the_cap_that_is_learnt_is_the_best_over_all_ratios() -> None:
    errors = {(10, 1.0): [1.0, 1.1, 2.0], (10, 2.0): [0.9, 0.5, 0.4], (20, 1.0): [1.0, 1.0, 0.9]}
    assert move_lengths.learnt_caps(errors, [0.1, 0.2, 0.3]) == {10: 0.2, 20: 0.3}
