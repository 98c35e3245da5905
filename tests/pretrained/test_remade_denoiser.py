"""The shipped denoiser is reproducible from the configuration in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tag_lightning.cli import main
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import DDIM
from tag_lightning.evaluation import Arm, ImageTask, compare


def _fid(source: str | Path) -> float:
    """Frechet distance of 512 samples to the training images, by features of the shipped judge."""
    task = ImageTask(judge="digits/judge", features="judge").for_data(DigitsDataModule())
    results = compare({"unguided": Arm()}, source, task, num_samples=512, solver=DDIM(eta=0.0), num_steps=25)
    return results["unguided"].figures["fid"]


@pytest.mark.slow
def test_training_again_gives_a_denoiser_as_good_as_the_shipped_one(tmp_path: Path) -> None:
    main(
        [
            "fit",
            "--config=configs/digits/denoiser.yaml",
            f"--trainer.default_root_dir={tmp_path / 'run'}",
            "--sampling.every_n_epochs=1000000",
        ]
    )
    assert _fid(tmp_path / "run" / "pretrained") == pytest.approx(_fid("digits/denoiser"), rel=0.2)
