"""The comparison over seeds, against figures worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.seeds import aggregate, changes, markdown

RUNS = [
    {
        "dps": {"fid": 10.0, "accuracy": 0.5, "time_gap": 100.0},
        "dps+tag": {"fid": 8.0, "accuracy": 0.6, "time_gap": 60.0},
    },
    {
        "dps": {"fid": 20.0, "accuracy": 0.7, "time_gap": 110.0},
        "dps+tag": {"fid": 12.0, "accuracy": 0.7, "time_gap": 90.0},
    },
]


def test_mean_and_spread_are_over_the_runs() -> None:
    mean, spread = aggregate(RUNS)["dps"]["fid"]
    assert mean == 15.0
    assert spread == pytest.approx(50**0.5)


def test_changes_are_paired_and_in_the_units_they_claim() -> None:
    found = changes(RUNS)
    assert found.keys() == {"dps"}
    assert found["dps"]["fid"] == pytest.approx((-30.0, 200**0.5))
    assert found["dps"]["accuracy"] == pytest.approx((5.0, 50**0.5))
    assert found["dps"]["time_gap"] == pytest.approx((-30.0, 200**0.5))


def test_the_markdown_has_a_row_for_every_arm_and_every_pair() -> None:
    rows = markdown(RUNS).splitlines()
    assert "| dps+tag | 10.0 ± 2.8 | 65.0 ± 7.1 | 75.0 ± 21.2 |" in rows
    assert "| dps | -30.0 ± 14.1 | +5.0 ± 7.1 | -30.0 ± 14.1 |" in rows
