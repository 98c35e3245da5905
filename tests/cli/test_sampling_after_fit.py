"""The command that makes the samples a ``fit`` ended without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main


def test_the_command_of_the_warning_makes_the_results(tiny: TinyNetworks, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="without samples of the final weights") as caught:
        main(predictor_arguments("fit", tmp_path, tiny, "--trainer.max_steps=1"))
    assert not (tmp_path / "results.json").exists()
    (warning,) = [str(w.message) for w in caught if "without samples" in str(w.message)]
    main(warning.split("python -m tag_lightning ")[1].split())
    assert json.loads((tmp_path / "results.json").read_text())["stage"] == "val"
