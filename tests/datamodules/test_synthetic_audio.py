"""Synthetic sounds: their formulas, pitches and splits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag_lightning.datamodules import SyntheticAudioDataModule
from tag_lightning.datamodules.synthetic_audio import FORMANTS, Partials, harmonic_sum, plucked_string, vowel

RATE = 4000


@pytest.fixture(scope="module")
def data() -> SyntheticAudioDataModule:
    return SyntheticAudioDataModule(num_clips=400)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_a_sum_of_harmonics_is_its_formula() -> None:
    seconds = torch.arange(200, dtype=torch.float64) / RATE
    partials = Partials(torch.tensor([[0.7, 0.2]]), torch.tensor([[3.0, 40.0]]), torch.tensor([[0.0, 1.0]]))
    s = seconds.numpy() - 0.01
    first, second = np.exp(-3 * s) * np.sin(2 * np.pi * 130 * s), np.exp(-40 * s) * np.sin(2 * np.pi * 260 * s + 1)
    expected = 0.7 * first + 0.2 * second
    found = harmonic_sum(partials, one(130.0), one(0.01), seconds)[0].numpy()
    np.testing.assert_allclose(found, np.where(s >= 0, expected, 0), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(place=st.floats(0.1, 0.5), pitch=st.floats(100, 300))
def test_a_string_lacks_harmonics_with_a_node_where_it_is_plucked_and_all_beyond_half_the_rate(
    place: float, pitch: float
) -> None:
    amplitude, decay, phase = (part[0].numpy() for part in plucked_string(one(pitch), one(place), one(2.0), RATE))
    n = np.arange(1, len(amplitude) + 1)
    heard = n * pitch < RATE / 2
    np.testing.assert_allclose(amplitude[heard], (np.sin(n * math.pi * place) / n)[heard], atol=1e-12)
    assert not amplitude[~heard].any()
    assert (np.diff(decay) > 0).all()
    assert not phase.any()
    middle = plucked_string(one(pitch), one(0.5), one(2.0), RATE).amplitude[0]
    assert middle[1::2].abs().max() < 1e-12, "the middle is a node of every even harmonic"


def test_a_vowel_is_loudest_at_its_formants() -> None:
    """With a resonator's gain of F / B at its centre, times those of the others there."""
    formants = torch.tensor([FORMANTS["a"]], dtype=torch.float64)
    f, widths = 730.0, (60.0, 90.0, 150.0)
    gains = [F**2 / math.hypot(F**2 - f**2, f * B) for F, B in zip(FORMANTS["a"], widths, strict=True)]
    assert gains[0] == pytest.approx(730 / 60)
    amplitude = vowel(one(f / 5), formants, one(0.0), 16000).amplitude[0]
    assert float(amplitude[4]) == pytest.approx(math.prod(gains) / 5)
    spectrum = (amplitude * torch.arange(1, len(amplitude) + 1)).numpy()
    peaks = [k + 2 for k in range(len(spectrum) - 2) if spectrum[k] < spectrum[k + 1] > spectrum[k + 2]]
    assert [round(F / (f / 5)) for F in FORMANTS["a"]] == peaks


@pytest.mark.parametrize("label", range(6))
def test_the_energy_of_a_clip_lies_at_the_harmonics_of_its_pitch(label: int, data: SyntheticAudioDataModule) -> None:
    table = data.table("train")
    batch = table[(table.attributes["label"] == label).nonzero()[:8, 0].tolist()]
    for clip, pitch in zip(batch.x[:, 0].double(), batch.attributes["pitch"].tolist(), strict=True):
        power = torch.fft.rfft(clip * torch.hann_window(1024, dtype=torch.float64)).abs().square()
        place = torch.arange(513) * RATE / 1024 / pitch
        near = (place - place.round()).abs() * pitch < 20  # five bins
        assert power[near].sum() > 0.97 * power.sum()
        assert near.float().mean() < 0.45


def test_clips_are_the_same_on_every_run_and_differ_between_splits(data: SyntheticAudioDataModule) -> None:
    again = SyntheticAudioDataModule(num_clips=400, seed=5)
    splits = [data.table(split).samples for split in ("train", "val", "test")]
    assert [tuple(split.shape) for split in splits] == [(400, 1, 1024), (40, 1, 1024), (40, 1, 1024)]
    assert torch.equal(again.table("val").samples, splits[1])
    assert not torch.isclose(splits[1], splits[2]).all(2).any()
    assert torch.allclose(splits[0].abs().amax(2), torch.tensor(0.9))
    attributes = data.table("train").attributes
    counts = attributes["label"].bincount(minlength=6)
    assert 160 < int(counts[0]) < 240
    assert int(counts[1:].min()) > 20
    assert (attributes["pitch"] >= 100).all()
    assert (attributes["pitch"] <= 300).all()
    assert data.num_classes == {"label": 6}


def test_rate_and_length_are_free_and_impossible_ones_refused() -> None:
    other = SyntheticAudioDataModule(sample_rate=16000, length=500, num_clips=20)
    assert other.example.x.shape == (1, 1, 500)
    assert other.network_arguments["sample_rate"] == 16000
    for arguments, message in [
        ({"sample_rate": 700}, "sample_rate must be at least 800 Hz"),
        ({"sample_rate": 0}, "sample_rate must be at least 1 Hz"),
        ({"length": 1}, "length must be at least 2 samples"),
        ({"num_clips": 19}, "num_clips must be at least 20"),
    ]:
        with pytest.raises(ValueError, match=message):
            SyntheticAudioDataModule(**arguments)
