"""Networks of waveforms: folding, shapes, lengths, saving."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet1DModel
from torch import Tensor, nn

from tag_lightning.diffusion import Denoiser, LinearSchedule
from tag_lightning.networks import SpectrogramClassifier, WaveformCNN, WaveformUNet
from tag_lightning.networks.trial_run import require_accepts
from tag_lightning.pretrained import load_pretrained, save_pretrained
from tag_lightning.spectrogram import log_spectrogram

T = torch.tensor([3, 900])


def small_unet() -> WaveformUNet:
    return WaveformUNet(4000, fold=4, block_out_channels=(8, 16), layers_per_block=0)


def waveforms(length: int = 64, channels: int = 1) -> Tensor:
    return torch.randn(2, channels, length, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 2])
def test_folding_turns_successive_samples_into_channels_and_back(channels: int) -> None:
    network = WaveformUNet(in_channels=channels, fold=4, block_out_channels=(8, 16), layers_per_block=0)
    seen: list[Tensor] = []

    class Doubling(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> SimpleNamespace:
            seen.append(x)
            return SimpleNamespace(sample=2 * x)

    network.unet = Doubling()
    x = waveforms(channels=channels)
    assert torch.equal(network(x, T), 2 * x)
    assert seen[0].shape == (2, 4 * channels, 16)
    assert torch.equal(seen[0][:, :4, 5], x[:, 0, 20:24])


def test_without_folding_it_is_diffusers_unet() -> None:
    network = WaveformUNet(fold=1, block_out_channels=(8, 16), layers_per_block=0)
    assert isinstance(network.unet, UNet1DModel)
    assert torch.equal(network(waveforms(), T), network.unet(waveforms(), T).sample)


def test_the_timestep_is_told_and_the_length_is_free() -> None:
    network, x = small_unet(), waveforms(128)
    assert network(x, T).shape == x.shape
    assert not torch.equal(network(x, T)[:1], network(x[:1], torch.tensor([40])))
    with pytest.raises(ValueError, match=r"shortens waveforms 8 times, so their length must be a multiple .* got 100"):
        network(waveforms(100), T)
    with pytest.raises(ValueError, match=r"denoiser .* cannot take samples of shape \[1, 100\]: WaveformUNet shortens"):
        require_accepts(network, (1, 100), "denoiser", torch.zeros(1, dtype=torch.long))


def test_impossible_networks_are_refused() -> None:
    for build, message in [
        (lambda: WaveformUNet(fold=0), "fold must be at least 1"),
        (lambda: WaveformUNet(block_out_channels=(8, 12)), "two or more multiples of 8"),
        (lambda: WaveformUNet(block_out_channels=(8,)), "two or more multiples of 8"),
        (lambda: WaveformCNN(widths=()), "widths is empty"),
        (lambda: WaveformCNN(num_timesteps=1), "num_timesteps must be at least 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize("kind", ["unet", "diffusers"])
def test_a_saved_denoiser_of_waveforms_predicts_the_same(kind: str, tmp_path: Path) -> None:
    network = small_unet()
    if kind == "diffusers":
        blocks = {"down_block_types": ("DownBlock1DNoSkip", "AttnDownBlock1D"), "block_out_channels": (32, 32)}
        blocks |= {"up_block_types": ("AttnUpBlock1D", "UpBlock1DNoSkip"), "extra_in_channels": 32}
        network = UNet1DModel(64, 4000, in_channels=1, out_channels=1, time_embedding_type="positional", **blocks)
    save_pretrained(tmp_path / "denoiser", network, LinearSchedule(1000))
    loaded = load_pretrained(tmp_path / "denoiser")
    assert loaded.network.config["sample_rate"] == 4000
    with torch.no_grad():
        expected = Denoiser(network.eval(), LinearSchedule(1000), "epsilon")(waveforms(), T)
        assert torch.equal(Denoiser(*loaded)(waveforms(), T).epsilon, expected.epsilon)


@pytest.mark.parametrize("length", [16, 64, 100])
def test_a_time_predictor_takes_any_length_and_its_conditions(length: int) -> None:
    assert WaveformCNN(widths=(4, 8), num_timesteps=20)(waveforms(length)).shape == (2, 20)
    network = WaveformCNN(widths=(4, 8), num_timesteps=20, conditions={"label": 6})
    logits = [network(waveforms(length), label=torch.full((2,), k)) for k in (0, 1)]
    assert not torch.equal(*logits)


def test_a_classifier_reads_levels_and_not_signs(tmp_path: Path) -> None:
    network = SpectrogramClassifier(4000, 6, window=16, widths=(8, 16)).eval()
    x = 0.1 * waveforms(256)
    assert network(x).shape == (2, 6)
    assert network.features(x).shape == (2, network.num_features) == (2, 16)
    torch.testing.assert_close(network(-x), network(x))
    scaled = 1 - 2 * log_spectrogram(x[:, 0], 16) / -80
    assert scaled.min() > -1.01
    assert scaled.max() < 1.01
    save_pretrained(tmp_path / "judge", network, None)
    assert torch.equal(load_pretrained(tmp_path / "judge").network(x), network(x))
