"""VGGish, the network of the Frechet audio distance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tag_lightning.tensor_file import load_weights, reason, require_finite

VGGISH_FILE = "vggish-10086976.pth"
VGGISH_URL = f"https://github.com/harritaylor/torchvggish/releases/download/v0.1/{VGGISH_FILE}"

SAMPLE_RATE = 16000
_FRAME, _HOP, _FFT = 400, 160, 512  # samples: 25 ms, 10 ms
_BANDS, _LOWEST, _HIGHEST = 64, 125.0, 7500.0  # mel bands, Hz
_OFFSET = 0.01  # added before the logarithm
_PATCH = 96  # frames per example
_HIDDEN, _FEATURES = 4096, 128
EXAMPLE = _FRAME + (_PATCH - 1) * _HOP
"""Samples at 16 kHz that one example takes, 0.975 s; successive ones begin 0.96 s apart."""


class VGGish(nn.Module):
    """The 128 numbers of VGGish (Hershey et al. 2017, arXiv 1609.09430) for every 0.96 s of sound.

    The network is that of the TensorFlow models repository (research/audioset/vggish) as torchvggish converted it: the
    embedding layer without ReLU, PCA or quantisation, as in the released embedding model. Weights are never
    downloaded.

    Args:
        sample_rate: Sample rate of the waveforms in Hz. A polyphase filter resamples others than 16 kHz.
        path: The weight file; None takes that of ``vggish_weights``.

    Raises:
        FileNotFoundError: If the weight file is missing.
        ValueError: If the file is damaged or holds other weights. Nothing in it is executed.
    """

    name = "vggish"
    num_features = _FEATURES
    bands: Tensor

    def __init__(self, sample_rate: int, path: Path | None = None) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.features, self.embeddings = _convolutions(), _layers()
        path = path or vggish_weights()
        if not path.is_file():
            raise FileNotFoundError(f"no VGGish weights at {path}: fetch {VGGISH_URL} and put it there")
        try:
            weights = load_weights(path, "file of VGGish weights")
            # The published layer ends with a ReLU, which has no weights.
            self.load_state_dict({key: value for key, value in weights.items() if not key.startswith("pproc.")})
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"cannot load {path} into VGGish: {reason(error)}; fetch {VGGISH_URL} again") from error
        require_finite(weights, path)
        self.register_buffer("bands", torch.from_numpy(mel_bands()).float(), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> VGGish:
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    def examples(self, length: int) -> int:
        """Number of examples in a waveform of that many samples."""
        return max(0, (math.ceil(length * SAMPLE_RATE / self.sample_rate) - _FRAME) // _HOP + 1) // _PATCH

    @torch.no_grad()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Embeddings ``[B, examples, 128]`` float64 of waveforms ``[B, C, L]`` in [-1, 1], whose channels are averaged.

        Raises:
            ValueError: If they are shorter than one example.
        """
        mono = waveforms.mean(1)
        count = self.examples(mono.shape[-1])
        if count < 1:
            raise ValueError(f"VGGish needs {EXAMPLE / SAMPLE_RATE} s of sound, got {mono.shape[-1]} samples")
        levels = log_mel(self._resampled(mono), self.bands)
        patches = levels[:, : count * _PATCH].reshape(-1, 1, _PATCH, _BANDS)
        # As TensorFlow lays it out: channels last.
        flat = self.features(patches).permute(0, 2, 3, 1).flatten(1)
        return self.embeddings(flat).reshape(len(mono), count, _FEATURES).double()

    def _resampled(self, mono: Tensor) -> Tensor:
        if self.sample_rate == SAMPLE_RATE:
            return mono
        from scipy.signal import resample_poly

        shared = math.gcd(SAMPLE_RATE, self.sample_rate)
        values = resample_poly(mono.cpu().numpy(), SAMPLE_RATE // shared, self.sample_rate // shared, axis=1)
        return torch.from_numpy(values).to(mono)


def vggish_weights() -> Path:
    """The weight file in torch's hub folder, there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / VGGISH_FILE


def log_mel(waveforms: Tensor, bands: Tensor) -> Tensor:
    """``log(mel + 0.01)`` of magnitude spectra ``[B, frames, 64]`` for waveforms ``[B, L]`` at 16 kHz.

    Args:
        waveforms: In [-1, 1].
        bands: Weights ``mel_bands()``.
    """
    taper = torch.hann_window(_FRAME, dtype=waveforms.dtype, device=waveforms.device)
    spectra = torch.fft.rfft(waveforms.unfold(1, _FRAME, _HOP) * taper, _FFT).abs()
    return (spectra @ bands.to(spectra) + _OFFSET).log()


def mel_bands() -> np.ndarray:
    """Weights ``[257, 64]`` of triangular bands, evenly spaced on HTK's mel scale ``1127 log(1 + f / 700)``.

    The triangles are straight on the mel scale, and the constant part of the spectrum belongs to no band.
    """
    mels = 1127 * np.log1p(np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT / 700)
    lowest, highest = (1127 * math.log1p(f / 700) for f in (_LOWEST, _HIGHEST))
    edges = np.linspace(lowest, highest, _BANDS + 2)
    rising = (mels[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    weights[0] = 0
    return weights


def _convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    width_in = 1
    for widths in ((64,), (128,), (256, 256), (512, 512)):
        for width in widths:
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU()]
            width_in = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _layers() -> nn.Sequential:
    flat = 512 * (_PATCH // 16) * (_BANDS // 16)
    hidden: list[Any] = [nn.Linear(flat, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(_HIDDEN, _FEATURES))
