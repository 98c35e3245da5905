"""Spectrograms against scipy, and distances of waveforms against closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.audio import ScaleInvariantSignalDistortionRatio

from tag_lightning.metrics import SISDR, SNR, LogSpectralDistance, SampleMetric
from tag_lightning.spectrogram import FLOOR, log_spectrogram, window_length

RATE = 4000


def noise(count: int = 2, seed: int = 0, length: int = 1024) -> Tensor:
    """Broadband, so that nearly every bin is above the floor."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, 1, length, dtype=torch.float64, generator=generator)


def measured(metric: SampleMetric, restored: Tensor, originals: Tensor) -> Tensor:
    data = SimpleNamespace(sample_rate=RATE)
    task = SimpleNamespace(data=data, sample_shape=originals.shape[1:], originals=lambda i: originals[list(i)])
    (values,) = metric.for_task(task).rows(restored, range(len(restored))).values()
    return values


def test_a_spectrogram_is_scipys() -> None:
    x = noise()[:, 0]
    window = scipy.signal.get_window("hann", 128)
    frames = scipy.signal.ShortTimeFFT(window, 32, RATE).stft(x.numpy(), p0=2, p1=2 + (1024 - 128) // 32 + 1)
    expected = 20 * np.log10(np.abs(frames) / (window.sum() / 2))
    np.testing.assert_allclose(log_spectrogram(x, 128).numpy(), np.maximum(expected, FLOOR), atol=1e-8)


def test_a_full_sine_has_0_db_and_silence_the_floor() -> None:
    sine = torch.sin(2 * math.pi * 500 * torch.arange(1024, dtype=torch.float64) / RATE)[None]
    levels = log_spectrogram(sine, 256)
    assert float(levels.max()) == pytest.approx(0, abs=1e-9)
    assert int(levels[0, :, 0].argmax()) == 500 * 256 // RATE
    assert (log_spectrogram(torch.zeros(1, 256), 64) == FLOOR).all()
    with pytest.raises(ValueError, match=r"a window must have 4 \.\. 100 samples, the length of a clip, got 128"):
        log_spectrogram(torch.zeros(1, 100), 128)


def test_windows_are_the_power_of_2_nearest_to_50_ms() -> None:
    assert [window_length(rate, 65536) for rate in (4000, 16000, 44100)] == [256, 1024, 2048]
    assert window_length(44100, 100) == 64


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(-10, 6), seed=st.integers(0, 20))
def test_a_gain_of_g_db_gives_a_distance_of_g(gain: float, seed: int) -> None:
    x = noise(seed=seed).clamp(-0.5, 0.5)
    assume(float(log_spectrogram(x[:, 0], 256).min()) + min(gain, 0) > FLOOR)
    assert measured(LogSpectralDistance(), x, x).tolist() == [0, 0]
    there = measured(LogSpectralDistance(), 10 ** (gain / 20) * x, x)
    torch.testing.assert_close(there, torch.full_like(there, abs(gain)), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(measured(LogSpectralDistance(), x, 10 ** (gain / 20) * x), there)


def test_the_distance_to_silence_is_finite_and_that_of_one_bad_frame_its_share() -> None:
    x = noise(1)
    silence = measured(LogSpectralDistance(), torch.zeros_like(x), x)
    assert float(silence) == pytest.approx(
        float((log_spectrogram(x[:, 0], 256) - FLOOR).square().mean(1).sqrt().mean()), rel=1e-9
    )
    halved = x.clone()
    halved[..., :16] = -x[..., :16]
    assert 0 < float(measured(LogSpectralDistance(), halved, x)) < float(silence) / 10


def test_ratios_are_their_formulas() -> None:
    x, error = noise(3), 0.1 * noise(3, seed=1)
    restored = x + error
    expected = 10 * torch.log10(x.square().sum((1, 2)) / error.square().sum((1, 2)))
    torch.testing.assert_close(measured(SNR(), restored, x), expected)
    reference = ScaleInvariantSignalDistortionRatio()(restored, x).double()
    torch.testing.assert_close(measured(SISDR(), restored, x).mean(), reference, rtol=1e-5, atol=0)
    torch.testing.assert_close(measured(SISDR(), 0.3 * restored, x).mean(), reference, rtol=1e-5, atol=0)
    assert not torch.isclose(measured(SNR(), 0.3 * restored, x), expected).any()
