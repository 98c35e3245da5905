"""The shipped networks of sound match their documentation."""

from __future__ import annotations

import pytest
import torch

from tag_lightning.datamodules import SyntheticAudioDataModule
from tag_lightning.diffusion import Denoiser
from tag_lightning.networks import SpectrogramClassifier, TimePredictor
from tag_lightning.pretrained import load_pretrained


@pytest.fixture(scope="module")
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Test clips that no network was trained on, and their labels."""
    table = SyntheticAudioDataModule(num_clips=1000).table("test")
    batch = table[list(range(len(table)))]
    return batch.x, batch.attributes["label"]


def test_the_denoiser_removes_most_of_the_noise(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    pretrained = load_pretrained("audio/denoiser")
    assert pretrained.network.config["sample_rate"] == 4000
    denoiser, x0 = Denoiser(*pretrained), clips[0][:32]
    epsilon = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    for timestep, least in ((100, 8.0), (300, 12.0), (600, 22.0)):
        x_t = denoiser.schedule.add_noise(x0, epsilon, torch.full((len(x0),), timestep))
        signal, noise = denoiser.schedule.signal_and_noise(x_t, torch.tensor([timestep]))
        with torch.no_grad():
            error = denoiser(x_t, timestep).x0 - x0
        gain = 10 * torch.log10((noise / signal).flatten()[0].square() / error.square().mean())
        assert float(gain) > least, f"dB of noise removed at timestep {timestep}"


def test_the_judge_tells_sounds_apart(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    judge = load_pretrained("audio/judge").network
    assert isinstance(judge, SpectrogramClassifier)
    assert float((judge(clips[0]).argmax(1) == clips[1]).float().mean()) > 0.97


@pytest.mark.parametrize("name", ["time_predictor", "time_gap_predictor"])
def test_predictors_tell_the_time(name: str, clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    network, schedule, *_ = load_pretrained(f"audio/{name}")
    assert isinstance(network, TimePredictor)
    assert schedule is not None
    assert bool(network.typical_nll.isfinite().all())
    # Beyond, the noise has nearly its final level and the clip is all that tells the time.
    generator = torch.Generator().manual_seed(0)
    timesteps = torch.randint(400, (len(clips[0]),), generator=generator)
    x_t = schedule.add_noise(clips[0], torch.randn(clips[0].shape, generator=generator), timesteps)
    assert float((network(x_t).argmax(1) - timesteps).abs().float().mean()) < 15
