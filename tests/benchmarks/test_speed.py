"""The speed table comes out; what it says is not for a test."""

from __future__ import annotations

import math
import re

import pytest
import torch

from benchmarks import speed
from benchmarks.timing import Ratio, interleaved, over


def test_rounds_take_turns_and_the_first_does_not_count() -> None:
    calls: list[str] = []

    def job(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = interleaved({"a": lambda: job("a"), "b": lambda: job("b")}, 2, "a test")
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert over(seconds["a"], seconds["b"]) == [3 / 4, 5 / 6]


def test_the_table_shows_the_median_and_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    speed.Console(width=120).print(speed.table([Ratio("this", [1.5, 1.0, 1.1], 1.05)], 3, torch.device("cpu")))
    assert re.search(r"this\W+1\.100\W+1\.000 \.\. 1\.500\W+<= 1\.05", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("part", "lines"),
    [
        ("steps", 3),
        ("overhead", 1),
        ("similar_sizes", 1),
        ("qm9_batches", 1),
        ("compiled", 1),
        ("folded", 1),
        ("distilled", 1),
        pytest.param("training", 2, marks=pytest.mark.slow),
        ("accumulation", 1),
        ("noise", 2),
    ],
)
def test_a_quick_run_prints_every_line(part: str, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    speed.main(["--quick", "--repeats", "1", "--parts", part])
    ratios = [float(ratio) for ratio in re.findall(r"│ +(\d+\.\d{3}) +│", capsys.readouterr().out)]
    assert len(ratios) == lines
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios)
