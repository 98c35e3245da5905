"""The stages of a latent experiment: the autoencoder first, whose latents all others are trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tag_lightning import stages
from tag_lightning.cli import main as run_verb
from tag_lightning.pretrained import load_pretrained
from tag_lightning.stages import Experiment, main

ALL = ["autoencoder", "denoiser", "time_gap_predictor", "time_predictor"]


def network(**settings: object) -> dict:
    return {"model": {"init_args": {"network": {"init_args": settings}}}}


IMAGES = {"size": 8}
TASK = {"init_args": {"judge": None, "features": "pixels"}}
SMALL = {
    "trainer": {"accelerator": "cpu", "max_steps": 2, "check_val_every_n_epoch": None, "val_check_interval": 2},
    "autoencoder": network(widths=[8, 8], latent_channels=3) | {"data": {"init_args": IMAGES}},
    "denoiser": network(
        block_out_channels=[8, 8], down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2
    )
    | {"data": {"init_args": {"images": {"class_path": "DigitsDataModule", "init_args": IMAGES}}}}
    | {"sampling": {"num_samples": 4, "chunk_size": 4, "num_steps": 3, "task": TASK}},
}


def test_an_autoencoder_and_a_denoiser_of_its_latents_are_trained_and_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and channels of the denoiser are those of the latents, and its samples are images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "_run", lambda arguments: run_verb(arguments) or 0)
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    options = ["--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"]
    main(["--config=latent_digits", "--config=small.yaml", "--only", "autoencoder", "denoiser", *options])
    runs = Path("runs/latent_digits")
    networks = {name: load_pretrained(runs / name / "pretrained").network for name in ALL[:2]}
    assert networks["autoencoder"].config.scaling_factor != 0.18215  # the default of diffusers; ours is measured
    assert (networks["denoiser"].config.in_channels, networks["denoiser"].config.sample_size) == (3, 4)
    settings = yaml.safe_load((runs / "denoiser/config.yaml").read_text())["data"]["init_args"]
    assert settings["autoencoder"] == str(runs / "autoencoder/pretrained")
    assert json.loads((runs / "denoiser/results.json").read_text())["arms"]["unguided"]["num_samples"] == 4


def test_stages_of_latents_take_the_guide_and_the_judge_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = Experiment("latent_digits", Path("mine"), [], [], None)
    assert experiment.stages == ALL
    arguments: dict[str, Sequence[str]] = {name: experiment.arguments(name) for name in ALL}
    for name in ALL[1:]:
        assert "autoencoder: mine/autoencoder/pretrained" in " ".join(arguments[name])
    assert not any("guide:" in word or "judge:" in word for words in arguments.values() for word in words)
