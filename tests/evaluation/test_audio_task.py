"""Restoration of sound: what is measured, guided, drawn, heard and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from tiny_runs import seeded

from tag_lightning.datamodules import SyntheticAudioDataModule
from tag_lightning.diffusion import Denoiser, LinearSchedule, Prediction
from tag_lightning.evaluation import Arm, AudioRestorationTask, Results, compare
from tag_lightning.guidance import MPGD
from tag_lightning.measurements import Clipping, GaussianBlur, Measurement, MissingIntervals
from tag_lightning.networks import SpectrogramClassifier, WaveformUNet

pytestmark = pytest.mark.filterwarnings("ignore:fad is left out")
RATE, LENGTH = 1000, 128
SCHEDULE = LinearSchedule(num_timesteps=100)


@pytest.fixture(scope="module")
def data() -> SyntheticAudioDataModule:
    return SyntheticAudioDataModule(RATE, LENGTH, num_clips=80)


def task_of(data: SyntheticAudioDataModule, measurement: Measurement) -> AudioRestorationTask:
    judge = seeded(lambda: SpectrogramClassifier(RATE, 6, window=32, widths=(8, 8)), 0)
    return AudioRestorationTask(measurement, judge).for_data(data)


def denoiser(rate: int = RATE) -> Denoiser:
    network = seeded(lambda: WaveformUNet(rate, fold=8, block_out_channels=(8, 8), layers_per_block=0), 1)
    return Denoiser(network, SCHEDULE, "epsilon")


@pytest.fixture(scope="module")
def results(data: SyntheticAudioDataModule) -> Results:
    arms = {"unguided": Arm(), "mpgd": Arm([MPGD(scale=3.0)])}
    return compare(arms, denoiser(), task_of(data, MissingIntervals()), 4, num_steps=6, chunk_size=3, progress=False)


def test_all_metrics_of_sound_are_measured_and_guidance_restores(results: Results) -> None:
    assert results["mpgd"].figures.keys() >= {"lsd", "snr", "si_sdr", "frechet"}
    assert results["mpgd"].figures["snr"] > results["unguided"].figures["snr"] + 2
    assert results.task.space(range(2), torch.device("cpu")).clip(torch.tensor(3.0)) == 1


@pytest.mark.parametrize("measurement", [Clipping(), MissingIntervals()], ids=["clipping", "missing intervals"])
def test_the_original_satisfies_the_condition_up_to_the_noise(
    measurement: Measurement, data: SyntheticAudioDataModule
) -> None:
    task = task_of(data, measurement).for_samples(6)
    condition = task.conditions(range(6), torch.device("cpu"))["measurement"]
    residual = -condition.log_likelihood(task.originals(range(6)))
    seen = 0.75 if isinstance(measurement, MissingIntervals) else 1
    assert float(residual.square().mean()) == pytest.approx(0.01**2 * seen * LENGTH, rel=0.3)


def test_spectrograms_are_drawn_and_sounds_written(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path)
    names = {"original", "measurement", "unguided", "mpgd"}
    assert {path.stem for path in (tmp_path / "sounds").glob("*.wav")} == names
    assert {path.stem for path in (tmp_path / "samples").glob("*.png")} == {"unguided", "mpgd"}
    assert (tmp_path / "arms.png").is_file()
    rate, values = wavfile.read(tmp_path / "sounds" / "mpgd.wav")
    assert (rate, values.dtype) == (RATE, np.int16)
    pause = 150
    assert len(values) == 4 * (LENGTH + pause)
    first = results["mpgd"].samples[1, 0].clamp(-1, 1).numpy()
    np.testing.assert_allclose(values[LENGTH + pause :][:LENGTH] / 32767, first, atol=1 / 32767)
    assert not values[LENGTH : LENGTH + pause].any()


def test_predicted_samples_are_written_one_by_one(results: Results, tmp_path: Path) -> None:
    paths = results.task.write(results["mpgd"], tmp_path, "mpgd")
    assert paths == [tmp_path / "mpgd.npz", tmp_path / "mpgd"]
    assert sorted(path.name for path in paths[1].iterdir()) == [f"{k:05d}.wav" for k in range(4)]
    assert np.load(paths[0])["samples"].shape == (4, 1, LENGTH)


def test_low_frequencies_are_at_the_bottom_of_a_picture(data: SyntheticAudioDataModule) -> None:
    task = task_of(data, Clipping()).for_samples(2)
    sine = torch.sin(2 * torch.pi * 60 * torch.arange(LENGTH) / RATE)[None, None]
    brightness = task._spectrograms(sine).mean((0, 1, 3))
    assert int(brightness.argmax()) > 0.75 * len(brightness)


class Unspecified(torch.nn.Module):
    """A network that says nothing of its sample rate."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_a_network_of_another_sample_rate_is_refused_before_anything_is_drawn(data: SyntheticAudioDataModule) -> None:
    task, arms = task_of(data, Clipping()), {"unguided": Arm()}
    message = (
        r"a network \(WaveformUNet\) was trained at 8000 Hz but the data have 1000 Hz; take data of 8000 Hz "
        r"\(data.init_args.sample_rate\) or networks trained at 1000 Hz"
    )
    with pytest.raises(ValueError, match=message):
        compare(arms, denoiser(8000), task, 2, num_steps=2, progress=False)
    other = seeded(lambda: SpectrogramClassifier(8000, 6, window=32, widths=(8, 8)), 0)
    with pytest.raises(ValueError, match=r"a network \(SpectrogramClassifier\) was trained at 8000 Hz"):
        compare(arms, denoiser(), AudioRestorationTask(Clipping(), other).for_data(data), 2, progress=False)
    silent = Denoiser(Unspecified(), SCHEDULE, "epsilon")
    assert isinstance(silent(torch.zeros(1, 1, 8), 0), Prediction)
    compare(arms, silent, task, 2, num_steps=1, progress=False)


def test_operators_of_images_and_data_without_a_sample_rate_are_refused(data: SyntheticAudioDataModule) -> None:
    with pytest.raises(ValueError, match=r"measurement GaussianBlur: GaussianBlur measures images \[C, H, W\]"):
        AudioRestorationTask(GaussianBlur()).for_data(data)
    vectors = type("Vectors", (), {"sample_shape": (1, 8)})()
    with pytest.raises(ValueError, match="Vectors has no sample rate; use AudioFolderDataModule"):
        AudioRestorationTask(Clipping()).for_data(vectors)
