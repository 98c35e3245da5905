"""The CIFAR-10 configurations end to end, stage after stage, on a few images with small networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import TASK, random_images

from tag_lightning.cli import main

CONFIGS = Path("configs/cifar10")
# What is laid over a stage to read a folder of images; the small stages read one already.
FOLDER = {"cifar10": [f"--config={CONFIGS / 'image_folder.yaml'}"], "cifar10_small": []}
SMALL_LEVELS = [
    "--model.init_args.network.init_args.block_out_channels=[8,8]",
    "--model.init_args.network.init_args.norm_num_groups=4",
    "--model.init_args.network.init_args.attention_head_dim=4",
]
SMALL_UNET = {
    "cifar10": [
        *SMALL_LEVELS,
        "--model.init_args.network.init_args.down_block_types=[DownBlock2D,DownBlock2D]",
        "--model.init_args.network.init_args.up_block_types=[UpBlock2D,UpBlock2D]",
        "--model.init_args.network.init_args.layers_per_block=1",
    ],
    "cifar10_small": SMALL_LEVELS,
}
SMALL_CNN = ["--model.init_args.network.init_args.widths=[8,8,8,8]"]
SMALL_CLASSIFIER = ["--model.init_args.network.init_args.widths=[8,8]"]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return random_images(tmp_path / "images")


def _fit(experiment: str, stage: str, images: Path, runs: Path, *overrides: str) -> None:
    main(
        [
            "fit",
            f"--config=configs/{experiment}/{stage}.yaml",
            *FOLDER[experiment],
            f"--data.init_args.root={images}",
            "--data.init_args.batch_size=8",
            f"--trainer.default_root_dir={runs / stage}",
            "--trainer.max_steps=2",
            "--trainer.max_epochs=1",
            "--trainer.accelerator=cpu",
            "--trainer.limit_train_batches=2",
            "--trainer.check_val_every_n_epoch=1",
            *overrides,
        ]
    )


@pytest.mark.parametrize("experiment", [pytest.param("cifar10", marks=pytest.mark.slow), "cifar10_small"])
def test_every_stage_runs_and_the_last_compares_all_arms(experiment: str, image_folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    few = [f"{TASK}.judge=null", "--sampling.num_samples=2", "--sampling.every_n_epochs=1"]
    _fit(experiment, "denoiser", image_folder, runs, *SMALL_UNET[experiment], *few)
    for stage in ("guide", "judge"):
        _fit(experiment, stage, image_folder, runs, *SMALL_CLASSIFIER)
    _fit(experiment, "time_gap_predictor", image_folder, runs, *SMALL_CNN)
    roles = {"sampling": ("denoiser", "time_gap_predictor"), "sampling.task.init_args": ("guide", "judge")}
    sources = [f"--{at}.{role}={runs / role / 'pretrained'}" for at, names in roles.items() for role in names]
    sizes = ["--sampling.num_samples=6", "--sampling.chunk_size=4", "--sampling.num_steps=12"]
    features = [f"{TASK}.features=judge", "--sampling.every_n_epochs=1"]
    _fit(experiment, "time_predictor", image_folder, runs, *SMALL_CNN, *sources, *sizes, *features)
    results = json.loads((runs / "time_predictor" / "results.json").read_text())
    methods = {"corruption", "dps", "adaptive length", "few"}
    expected = {"unguided"} | methods | {f"{method}+tag" for method in methods}
    assert results["arms"].keys() == expected
    for figures in results["arms"].values():
        assert figures["num_samples"] == 6
        assert np.isfinite(figures["fid"])
        assert 0 <= figures["accuracy"] <= 1
        assert 0 <= figures["time_gap"] <= 999


def test_the_short_variant_stops_in_time_and_leaves_a_network(image_folder: Path, tmp_path: Path) -> None:
    short = ["--trainer.max_time=00:00:00:02", "--trainer.max_steps=20000", "--trainer.max_epochs=100000"]
    _fit("cifar10", "guide", image_folder, tmp_path, f"--config={CONFIGS / 'short.yaml'}", *SMALL_CLASSIFIER, *short)
    assert (tmp_path / "guide" / "pretrained" / "config.json").is_file()
