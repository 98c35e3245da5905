"""The table of costs comes out, and its counted columns say what docs/methods.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import methods
from benchmarks.methods import Row, cells, markdown
from tag_lightning import guidance
from tag_lightning.guidance import Corruption, Drift, Guidance, GuidanceWrapper, Quantisation

IDENTITY = torch.nn.Identity()


def test_every_shipped_method_has_a_row() -> None:
    listed = methods.methods(condition=None, predictor=IDENTITY, denoiser=IDENTITY, regressor=IDENTITY)  # type: ignore[arg-type]
    kinds = {type(entry) for entries in listed.values() for entry in entries}
    exported = (getattr(guidance, name) for name in guidance.__all__)
    shipped = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Guidance)}
    free = {Guidance, guidance.ConditionedGuidance, GuidanceWrapper, Corruption, Drift, Quantisation}
    assert shipped - kinds <= free


def test_a_row_is_the_median_the_range_and_the_passes() -> None:
    row = cells(Row("dps", [2.0, 1.0, 4.0], {"denoiser": (1.0, 0.9), "guide": (10.0, 0.0)}))
    assert row == ["dps", "2.00", "1.00 .. 4.00", "1 / 0.9", "10 / 0"]
    assert markdown(["a", "b"], [["c", "d"]]) == "| a | b |\n| --- | ---: |\n| c | d |\n"


@pytest.mark.parametrize("kind", ["digits", pytest.param("molecules", marks=pytest.mark.slow)])
def test_a_quick_run_writes_the_table(kind: str, tmp_path: Path) -> None:
    methods.main(["--repeats", "1", "--steps", "2", "--batch", "1", "--kinds", kind, "--out", str(tmp_path)])
    lines = (tmp_path / f"{kind}.md").read_text().splitlines()[2:]
    table = {name: (ratio, passes) for name, ratio, _, *passes in (line[2:-2].split(" | ") for line in lines)}
    for_digits = kind == "digits"
    listed = methods.methods(condition=None, predictor=IDENTITY, denoiser=IDENTITY, regressor=IDENTITY)  # type: ignore[arg-type]
    for_digits_alone = {"AdapterGuidance", "EluCD", "GFCG"}
    assert table.keys() == (listed.keys() if for_digits else listed.keys() - for_digits_alone)
    assert all(float(ratio) > 0 for ratio, _ in table.values())
    assert table["plain"][0] == "1.00"
    passes = {name: row[:3] for name, (_, row) in table.items()}
    assert passes["plain"] == ["1 / 0", "0 / 0", "0 / 0"]
    assert passes["TFG"] == ["1 / 1", "5 / 5", "0 / 0"]
    assert passes["TemporalAlignment, DPS"] == ["1 / 1", "1 / 1", "1 / 1"]
    assert passes["REDDiff"] == ["1 / 0", "1 / 1", "0 / 0"]
    assert passes["MoreRedAS"] == ["1 / 0", "0 / 0", "1 / 0"]
    assert passes["ClassifierFreeNoiseAwareness"] == ["2 / 0", "0 / 0", "0 / 0"]
    assert passes["CFG"] == passes["AutoGuidance"] == ["2 / 0", "0 / 0", "0 / 0"]
    assert passes["DynamicCFG"] == ["2 / 0", "4 / 0", "0 / 0"]
    assert passes["DynamicCFG by the time predictor"] == ["2 / 0", "0 / 0", "4 / 0"]
    assert table["Retiming"][1] == ["1 / 0", "0 / 0", "0 / 0", "1 / 0"]
    if for_digits:
        assert passes["GFCG"] == ["2 / 0", "1 / 0", "0 / 0"]
        assert table["AdapterGuidance"][1] == ["1 / 0", "0 / 0", "0 / 0", "0 / 0"]


def test_rows_are_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--repeats", "1", "--steps", "1", "--batch", "1", "--kinds", "digits", "--out", str(tmp_path)]
    methods.main([*quick, "--methods", "EpsilonScaling"])
    rows = (tmp_path / "digits.md").read_text().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| plain", "| EpsilonScaling"]
    with pytest.raises(SystemExit):
        methods.main(["--methods", "DSP"])
    assert "invalid choice: 'DSP'" in capsys.readouterr().err


def test_impossible_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        methods.main(["--repeats", "0"])
    assert "--repeats must be at least 1, got 0" in capsys.readouterr().err
