"""The shipped networks of CIFAR-10 and the statistics beside them match their documentation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar10_images import ARCHIVE, held_out_images
from safetensors import safe_open

import tag_lightning
from tag_lightning.cli import main
from tag_lightning.datamodules import ImageStatisticsDataModule
from tag_lightning.evaluation import frontier
from tag_lightning.networks import ImageClassifier, NoiseLevelCNN, SimpleCNN
from tag_lightning.pretrained import load_pretrained

SHIPPED = Path(tag_lightning.__file__).parent / "pretrained" / "cifar10_small"
needs_images = pytest.mark.skipif(not ARCHIVE.is_file(), reason="needs the images beside the repository")


def test_the_statistics_are_those_of_cifar10_and_hold_no_image() -> None:
    data = ImageStatisticsDataModule("cifar10_small/statistics")
    assert data.sample_shape == (3, 32, 32)
    assert data.num_classes == {"label": 10}
    with safe_open(SHIPPED / "statistics.safetensors", "pt") as file:
        sizes = [file.get_tensor(name).numel() for name in file.keys()]  # noqa: SIM118
    assert max(sizes) <= 160**2  # the covariance of the judge's features


def test_the_demo_needs_no_image_of_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frontier, "_RESAMPLES", 20)
    brief = ["--sampling.num_samples=4", "--sampling.num_steps=2"]
    main(["validate", "--config=cifar10_small/comparison", "--trainer.accelerator=cpu", *brief])
    assert "cannot be kept" not in capfd.readouterr().out  # an interrupted demo goes on where it stopped
    folder = tmp_path / "runs/cifar10_small/comparison"
    results = json.loads((folder / "results.json").read_text())
    arms = list(results["arms"])
    # in the order of the configuration
    assert arms[:5] == ["unguided", "corruption", "corruption+tag", "corruption+retiming", "dps scale=0.5"]
    assert arms[-2:] == ["few", "few+tag"]
    assert len(arms) == 4 + 2 * (2 + 3 + 3) + 2
    for figures in results["arms"].values():
        assert np.isfinite(figures["fid"])
        assert np.isfinite(figures["time_gap"])
    assert (folder / "frontier.png").is_file()


def test_the_denoiser_draws_images_that_resemble_real_ones_to_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    brief = ["--sampling.num_samples=32", "--sampling.num_steps=15"]
    arms = ["--sampling.arms={unguided: {}, blurred: {num_steps: 2}}", "--sampling.extra_arms={}"]
    main(["validate", "--config=cifar10_small/comparison", "--trainer.accelerator=cpu", *arms, *brief])
    figures = json.loads((tmp_path / "runs/cifar10_small/comparison/results.json").read_text())["arms"]
    assert figures["unguided"]["fid"] < 0.5 * figures["blurred"]["fid"], figures


@needs_images
@pytest.mark.parametrize("name", ["guide", "judge"])
def test_the_classifiers_are_as_accurate_as_documented_on_images_held_out(name: str) -> None:
    network = load_pretrained(f"cifar10_small/{name}").network
    assert isinstance(network, ImageClassifier)
    x, labels = held_out_images(every=10)
    with torch.no_grad():
        accuracy = float((network(x).argmax(1) == labels).float().mean())
    assert accuracy > 0.71  # 75 and 77 % of all 5,000


@needs_images
@pytest.mark.parametrize("name", ["time_predictor", "time_gap_predictor"])
def test_the_time_predictors_tell_the_time(name: str) -> None:
    network, schedule, *_ = load_pretrained(f"cifar10_small/{name}")
    assert isinstance(network, SimpleCNN)
    assert schedule is not None
    assert bool(network.typical_nll.isfinite().all())
    x, _ = held_out_images(every=25)
    # Whoever guesses is off by 250 at least.
    for timestep, most in ((20, 8), (100, 5), (500, 60), (900, 140)):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = network(schedule.add_noise(x, noise, timestep))
        assert float((logits.argmax(1) - timestep).abs().float().mean()) < most


@needs_images
def test_the_regressor_tells_the_noise_as_closely_as_documented() -> None:
    network, schedule, *_ = load_pretrained("cifar10_small/noise_level")
    assert isinstance(network, NoiseLevelCNN)
    assert schedule is not None
    x, _ = held_out_images(every=25)
    for timestep, most in ((19, 0.04), (99, 0.03), (519, 0.022)):  # 3,072 Gaussian coordinates allow 0.013
        for ratio in (0.8, 1.0, 2.0):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                found = network(schedule.add_noise(x, ratio * noise, timestep), torch.full((len(x),), timestep))
            assert float((found - math.log(ratio)).square().mean().sqrt()) < most
