"""The benchmark prints and saves what it measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import planted_damage
from tag_lightning.datamodules import SmallMoleculesDataModule


def test_a_time_predictor_is_measured_and_a_guide_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = SmallMoleculesDataModule(max_heavy_atoms=3, cache=None)
    monkeypatch.setattr(planted_damage, "SmallMoleculesDataModule", lambda: few)
    out = tmp_path / "areas.json"
    planted_damage.main(["molecules/time_gap_predictor", "--count", "12", "--timesteps", "5", "30", "--out", str(out)])
    figures = json.loads(out.read_text())["molecules/time_gap_predictor"]
    assert len(figures) == 1 + 4 * 2
    assert 0 < figures.pop("time_gap") < 1000
    assert all(0 <= area <= 1 for area in figures.values())
    printed = capsys.readouterr().out
    assert "dilated by 5 %, t = 30" in printed
    with pytest.raises(ValueError, match=r"molecules/guide has no noise schedule.*not a time predictor"):
        planted_damage.main(["molecules/guide", "--count", "12"])
