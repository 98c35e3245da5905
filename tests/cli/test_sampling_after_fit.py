"""The command that makes the samples a ``fit`` ended without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main


@pytest.mark.parametrize("limit", ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"])
def test_the_command_of_the_warning_makes_the_results(limit: str, tiny: TinyNetworks, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="without samples of the final weights") as caught:
        main(predictor_arguments("fit", tmp_path, tiny, limit))
    assert not (tmp_path / "results.json").exists()
    (warning,) = [str(w.message) for w in caught if "without samples" in str(w.message)]
    main(warning.split("python -m tag_lightning ")[1].split())
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["stage"] == "val"
    assert results["global_step"] == (1 if "max_steps" in limit else 2)


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_results_have_the_step_of_the_checkpoint(
    verb: str, trained: Path, tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = "--sampling.arms={unguided: {}}"
    checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
    for more, step in (([checkpoint], 2), ([], 0)):
        main(predictor_arguments(verb, tmp_path, tiny, arms, *more))
        assert json.loads((tmp_path / "results.json").read_text())["global_step"] == step
        title = f"Guided sampling at step {step}" if step else "Guided sampling  "
        assert title in capsys.readouterr().out
