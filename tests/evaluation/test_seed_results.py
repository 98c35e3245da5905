"""What a results.json holds beside the arms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tag_lightning.evaluation.seed_results import SeedResults


def test_failed_arms_and_real_data_are_read(tmp_path: Path) -> None:
    path, results = tmp_path / "results.json", {"seed": 3, "arms": {"dps": {"fid": 1.0}}}
    path.write_text(json.dumps(results))
    plain = SeedResults.read(path)
    assert (plain.failed, plain.reference) == ((), {})
    path.write_text(json.dumps(results | {"failed": {"dps+tag": "lost"}, "reference": {"fid": 0.1}}))
    run = SeedResults.read(path)
    assert run.failed == ("dps+tag",)
    assert run.reference == {"fid": 0.1}
    assert run.figures == {"dps": {"fid": 1.0}, "dps+tag": {}}


@pytest.mark.parametrize("change", [{"reference": [1]}, {"failed": 3}, {"arms": []}])
def test_other_shapes_are_no_results(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"seed": 3, "arms": {}} | change))
    with pytest.raises(ValueError, match="holds no results of a run"):
        SeedResults.read(path)
