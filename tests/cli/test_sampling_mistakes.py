"""Mistakes in what to sample, on the command line: one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.cli import main


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("--sampling.arms={}", "sampling.arms is empty"),
        ("--sampling.arms={../../escape: {}}", "an arm named '../../escape'"),
        ("--sampling.extra_arms={few: {num_steps: 0}}", "arm few: num_steps must lie in 1 .. 20"),
    ],
)
def test_arms_that_cannot_be(
    setting: str, named: str, tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in _error(predictor_arguments("validate", tmp_path, tiny, setting), capsys)


def test_predict_before_any_validation_names_arm_and_way_out(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = _error(predictor_arguments("predict", tmp_path, tiny), capsys)
    assert "arm adaptive length+tag: PolyakStrength needs a time predictor with a measured typical_nll" in message


def test_predict_with_a_classifier_says_that_it_cannot_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[2] / "configs" / "digits" / "guide.yaml"
    run = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--ckpt_path=untrained"]
    message = _error(["predict", f"--config={config}", *run, "--sampling.denoiser=digits/denoiser"], capsys)
    assert "predict draws samples, which" in message
    assert "set sampling.denoiser" not in message
