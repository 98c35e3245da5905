"""The curve of error against stability, from summaries made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.curve import curves, draw, main

ARMS = {
    "unguided": {"atom_stability": [0.9, 0.01], "mae_alpha": [8.0, 0.1]},
    "alpha 10": {"atom_stability": [0.3, 0.02], "mae_alpha": [4.0, 0.4]},
    "alpha 0.5": {"atom_stability": [0.8, 0.01], "mae_alpha": [2.0, 0.2]},
    "alpha 0.5+tag": {"atom_stability": [0.85, 0.01], "mae_alpha": [1.5, 0.2]},
}


def test_arms_are_ordered_by_scale_and_split_by_tag() -> None:
    assert curves(ARMS) == {
        ("alpha", False): [(0.5, "alpha 0.5"), (10.0, "alpha 10")],
        ("alpha", True): [(0.5, "alpha 0.5+tag")],
    }


def test_what_is_drawn_is_what_was_measured() -> None:
    (axes,) = draw(ARMS).axes
    without, with_tag = (container.lines[0] for container in axes.containers)
    assert without.get_xydata().tolist() == [[80.0, 2.0], [30.0, 4.0]]
    assert with_tag.get_xydata().tolist() == [[85.0, 1.5]]


def test_a_panel_for_every_judge() -> None:
    arms = {arm: figures | {"xtb_mae_alpha": [3.0, 0.1]} for arm, figures in ARMS.items()}
    assert len(draw(arms).axes) == 2


def test_the_command_line_writes_a_picture(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"arms": ARMS}))
    main([str(tmp_path / "summary.json"), str(tmp_path / "curve.png")])
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size[0] > 400


@pytest.mark.parametrize("text", ["{}", "no json", json.dumps({"arms": {"dps": {"fid": [1, 1]}}})])
def test_what_cannot_be_drawn_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "summary.json"), str(tmp_path / "curve.png")])
    assert capsys.readouterr().err.startswith("error: cannot draw")
    assert not (tmp_path / "curve.png").exists()
