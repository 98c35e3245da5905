"""The shipped denoiser is reproducible from the configuration in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tag_lightning.callbacks.image_task import ImageTask
from tag_lightning.cli import main
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import DDIM, Denoiser, Sampler
from tag_lightning.metrics import JudgeFeatures
from tag_lightning.pretrained import load_pretrained


def _fid(source: str | Path) -> float:
    """Frechet distance of 512 samples to the training images, by features of the shipped judge."""
    network, schedule = load_pretrained(source)
    assert schedule is not None
    judge = load_pretrained("digits/judge").network
    data = DigitsDataModule()
    data.setup("validate")
    task = ImageTask(data.sample_shape, list(range(10)), "label", None, judge, JudgeFeatures(judge))
    task.prepare(data.reference_dataloader(), torch.device("cpu"))
    sampler = Sampler(Denoiser(network, schedule), DDIM(eta=0.0), 25)
    rows = []
    for start in range(0, 512, 64):
        indices = list(range(start, start + 64))
        x = sampler.sample(task.space(indices, torch.device("cpu")), 0)
        with torch.no_grad():
            rows.append(task.measure(x, indices))
    return task.summarize({name: torch.cat([row[name] for row in rows]) for name in rows[0]})["fid"]


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
