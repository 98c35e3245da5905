"""An exported network says where it comes from and what was measured, and goes to the Hub with it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import ModelMixin
from tiny_runs import TIMESTEPS, TinyNetworks, predictor_arguments

from tag_lightning.cli import main
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import ImageClassifier, SimpleCNN
from tag_lightning.pretrained import load_pretrained, model_card, push_to_hub


def test_a_run_exports_its_card(trained: Path) -> None:
    text = (trained / "pretrained" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: tag_lightning\n")
    assert "# SimpleCNN" in text
    assert "Trained on DigitsDataModule by" in text
    assert f"python -m tag_lightning fit --config {trained / 'config.yaml'}" in text
    assert f"T = {TIMESTEPS} timesteps" in text
    assert re.search(r"\| time_gap \| [\d.]+ \|", text)
    assert "| calibration_" in text
    assert len(re.findall(r"\| \d+ to \d+ % \| [\d.]+ \|", text)) == 10
    typical = load_pretrained(trained / "pretrained").network.typical_nll
    assert f"| {TIMESTEPS - 1} | {float(typical[-1]):.4g} |" in text


def test_a_run_that_was_cut_before_its_export_has_the_same_card(
    trained: Path, tiny: TinyNetworks, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("pretrained"))
    main(predictor_arguments("fit", tmp_path / "run", tiny, "--ckpt_path=last"))
    expected, found = (run / "pretrained" for run in (trained, tmp_path / "run"))
    assert {file.name for file in found.iterdir()} == {file.name for file in expected.iterdir()}
    text = (expected / "README.md").read_text().replace(str(trained), str(tmp_path / "run"))
    assert (found / "README.md").read_text() == text


def test_what_was_not_measured_is_left_out() -> None:
    text = model_card(ImageClassifier(widths=(8, 8)), None, {"val/loss": 0.25, "train/loss": 9.0}, "own", "fit")
    assert "| loss | 0.25 |" in text
    assert "9" not in text.split("## The last validation")[1]
    assert "alphas_cumprod" not in text
    untested = SimpleCNN(8, num_timesteps=20, widths=(8, 8))
    assert "H[t]" not in model_card(untested, LinearSchedule(20), {}, "own", "fit")
    untested.typical_nll.copy_(torch.arange(20.0))
    assert "| 19 | 19 |" in model_card(untested, LinearSchedule(20), {}, "own", "fit")


def test_the_folder_is_uploaded_with_schedule_and_card(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, Any] = {}

    def upload(**given: Any) -> str:
        uploaded.update(given, files={path.name for path in Path(given["folder_path"]).iterdir()})
        return "https://huggingface.co/me/predictor/commit/1"

    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **given: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    assert push_to_hub(trained / "pretrained", "me/predictor").endswith("/commit/1")
    assert uploaded["repo_id"] == "me/predictor"
    assert uploaded["files"] == {
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "schedule.safetensors",
    }
    with pytest.raises(FileNotFoundError, match="expected a folder with config"):
        push_to_hub(trained, "me/predictor")


def test_networks_have_the_method_of_diffusers() -> None:
    assert SimpleCNN.push_to_hub is ModelMixin.push_to_hub
