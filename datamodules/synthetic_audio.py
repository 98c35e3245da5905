"""Plucked strings and vowels from formulas."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tag_lightning.datamodules.audio import AudioDataModule
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.tables import TensorTable

# Centre frequencies of the first three formants in Hz: means over men, Peterson and Barney (1952), Table II.
FORMANTS = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
SOUNDS = ("string", *FORMANTS)

_BANDWIDTHS = (60.0, 90.0, 150.0)  # Hz, one per formant
_LOWEST, _HIGHEST = 100.0, 300.0  # pitch, Hz
_RAMP = 0.016  # seconds that a vowel takes to begin and to end
_PEAK = 0.9
_CHUNK = 256  # bounds the memory of the harmonics


class Partials(NamedTuple):
    """Harmonics of sounds, ``[B, K]`` each.

    Attributes:
        amplitude: Relative amplitudes.
        decay: Decay rates in 1/s.
        phase: Phases at the onset in radians.
    """

    amplitude: Tensor
    decay: Tensor
    phase: Tensor


class SyntheticAudioDataModule(AudioDataModule):
    """Plucked strings and vowels, one clip each, all from formulas and a fixed seed.

    Every clip is a sum of the harmonics below half the sample rate, scaled to a peak of 0.9. Half of the clips are
    strings plucked at a random place (``plucked_string``), starting in the first eighth of the clip after silence; the
    others are the vowels a, e, i, o and u of a random speaker (``vowel``). Attribute ``label`` is 0 for a string and
    1 .. 5 for a vowel, ``pitch`` the fundamental in Hz, log-uniform in 100 .. 300. Clips do not depend on ``seed``.

    Args:
        sample_rate: In Hz; at least 800, so that every pitch has a harmonic.
        length: Samples per clip.
        num_clips: Training clips; validation and test have a tenth of it each.
        batch_size: Clips per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Raises:
        ValueError: If ``num_clips`` is below 20 or ``sample_rate`` below 800.
    """

    def __init__(
        self,
        sample_rate: int = 4000,
        length: int = 1024,
        num_clips: int = 4000,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(sample_rate, length, batch_size, **kwargs)
        if num_clips < 20:
            raise ValueError(f"num_clips must be at least 20, got {num_clips}")
        if sample_rate < 800:
            raise ValueError(f"sample_rate must be at least 800 Hz for pitches of up to 300 Hz, got {sample_rate}")
        self.num_clips = num_clips

    @property
    def network_arguments(self) -> dict[str, Any]:
        return self.audio_arguments({"label": len(SOUNDS)})

    def prepare_data(self) -> None:
        """Do nothing: the clips are generated."""

    def build(self, split: Split) -> TensorTable:
        generator = torch.Generator().manual_seed({"train": 0, "val": 1, "test": 2}[split])
        count = self.num_clips if split == "train" else self.num_clips // 10
        random = torch.rand(count, 7, generator=generator, dtype=torch.float64)
        is_vowel = random[:, 0] < 0.5
        label = torch.where(is_vowel, 1 + (random[:, 1] * len(FORMANTS)).long(), 0)
        pitch = _LOWEST * (_HIGHEST / _LOWEST) ** random[:, 2]
        parts = zip(label.split(_CHUNK), pitch.split(_CHUNK), random[:, 3:].split(_CHUNK), strict=True)
        waveforms = torch.cat([self._clips(*part) for part in parts])
        self.num_classes = {"label": len(SOUNDS)}
        return TensorTable(waveforms[:, None], {"label": label, "pitch": pitch.float()})

    def _clips(self, label: Tensor, pitch: Tensor, random: Tensor) -> Tensor:
        """Waveforms ``[B, L]`` of these sounds, ``random [B, 4]`` uniform in [0, 1)."""
        place, loudness, start, speaker = random.unbind(1)
        strings = plucked_string(pitch, 0.1 + 0.4 * place, 2 + 4 * loudness, self.sample_rate)
        formants = torch.tensor([FORMANTS[SOUNDS[max(1, k)]] for k in label.tolist()], dtype=torch.float64)
        vowels = vowel(pitch, formants * (0.9 + 0.25 * speaker[:, None]), 2 * math.pi * start, self.sample_rate)
        is_string = (label == 0)[:, None]
        partials = Partials(*(torch.where(is_string, *pair) for pair in zip(strings, vowels, strict=True)))
        seconds = torch.arange(self.length, dtype=torch.float64) / self.sample_rate
        duration = self.length / self.sample_rate
        onset = torch.where(is_string[:, 0], start * duration / 8, 0.0)
        ramp = (torch.minimum(seconds, duration - seconds) / _RAMP).clamp(0, 1)
        envelope = torch.where(is_string, torch.ones_like(ramp), (1 - torch.cos(math.pi * ramp)) / 2)
        sound = envelope * harmonic_sum(partials, pitch, onset, seconds)
        return (_PEAK * sound / sound.abs().amax(1, keepdim=True)).float()


def plucked_string(pitch: Tensor, place: Tensor, damping: Tensor, sample_rate: int) -> Partials:
    """The force of an ideal string on its bridge, plucked at a point (Fletcher and Rossing 1998, Sec. 2.8).

    Harmonic n has the amplitude ``sin(n pi place) / n``. Higher ones die faster, by ``damping + 0.3 n^2``.

    Args:
        pitch: Fundamental in Hz, ``[B]``.
        place: Where the string is plucked, as a share of its length, ``[B]`` in (0, 1).
        damping: Decay of the string in 1/s, ``[B]``.
        sample_rate: In Hz; harmonics from half of it on are left out.
    """
    n = _numbers(sample_rate)
    amplitude = torch.sin(n * math.pi * place[:, None]) / n * _audible(pitch, sample_rate)
    return Partials(amplitude, damping[:, None] + 0.3 * n.square(), torch.zeros_like(amplitude))


def vowel(pitch: Tensor, formants: Tensor, phase: Tensor, sample_rate: int) -> Partials:
    """A voiced sound by the source-filter model (Fant 1960): a pulse train through one resonator per formant.

    Source and radiation together fall as ``1 / n``; a resonator at F with bandwidth B has the gain
    ``F^2 / sqrt((F^2 - f^2)^2 + (f B)^2)``.

    Args:
        pitch: Fundamental in Hz, ``[B]``.
        formants: Centre frequencies in Hz, ``[B, 3]``.
        phase: Phase of the fundamental at the start in radians, ``[B]``.
        sample_rate: In Hz; harmonics from half of it on are left out.
    """
    n = _numbers(sample_rate)
    f = (n * pitch[:, None])[:, :, None]
    centre, width = formants[:, None, :], torch.tensor(_BANDWIDTHS, dtype=torch.float64)
    gain = centre.square() / ((centre.square() - f.square()).square() + (f * width).square()).sqrt()
    amplitude = gain.prod(2) / n * _audible(pitch, sample_rate)
    return Partials(amplitude, torch.zeros_like(amplitude), n * phase[:, None] + math.pi / 2)


def harmonic_sum(partials: Partials, pitch: Tensor, onset: Tensor, seconds: Tensor) -> Tensor:
    """``sum_n amplitude exp(-decay s) sin(2 pi n pitch s + phase)`` at ``s = seconds - onset``, silence before it.

    Args:
        partials: Harmonics 1 .. K.
        pitch: Fundamental in Hz, ``[B]``.
        onset: In seconds, ``[B]``.
        seconds: Times, ``[L]``.

    Returns:
        Sounds ``[B, L]``.
    """
    since = seconds - onset[:, None]
    sounding, since = since >= 0, since.clamp(min=0)
    total = torch.zeros_like(since)
    for k, (amplitude, decay, phase) in enumerate(zip(*(part.unbind(1) for part in partials), strict=True), start=1):
        angle = 2 * math.pi * k * pitch[:, None] * since + phase[:, None]
        total += amplitude[:, None] * torch.exp(-decay[:, None] * since) * torch.sin(angle)
    return total * sounding


def _numbers(sample_rate: int) -> Tensor:
    """The numbers of all harmonics that some pitch has below half the sample rate."""
    return torch.arange(1, math.ceil(sample_rate / 2 / _LOWEST) + 1, dtype=torch.float64)


def _audible(pitch: Tensor, sample_rate: int) -> Tensor:
    return _numbers(sample_rate) * pitch[:, None] < sample_rate / 2
