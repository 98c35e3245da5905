"""The spectrogram in dB that networks, metrics and pictures of audio share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLOOR = -80.0
"""Least level in dB; quieter bins, silence among them, have it."""


def log_spectrogram(waveforms: Tensor, window: int) -> Tensor:
    """Short-time spectra in dB relative to a sine of amplitude 1, at least ``FLOOR``.

    Hann windows that overlap by three quarters and lie inside the waveform.

    Args:
        waveforms: ``[B, L]``.
        window: Samples per window, at least 4 and at most L.

    Returns:
        ``[B, window / 2 + 1, frames]``.

    Raises:
        ValueError: If the window is longer than the waveforms.
    """
    if not 4 <= window <= waveforms.shape[-1]:
        raise ValueError(f"a window must have 4 .. {waveforms.shape[-1]} samples, the length of a clip, got {window}")
    taper = torch.hann_window(window, dtype=waveforms.dtype, device=waveforms.device)
    spectra = torch.stft(waveforms, window, window // 4, window=taper, center=False, return_complex=True)
    power = (spectra.real.square() + spectra.imag.square()) / (taper.sum() / 2).square()
    return 10 * power.clamp(min=10 ** (FLOOR / 10)).log10()


def window_length(sample_rate: int, length: int) -> int:
    """The power of 2 nearest to 50 ms, in samples, and at most the length of a clip."""
    return 2 ** min(round(math.log2(max(4, 0.05 * sample_rate))), int(math.log2(length)))
