"""VGGish and the Frechet audio distance: spectrogram, weights, what is left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tag_lightning.metrics import FAD, FrechetDistance, vggish
from tag_lightning.metrics.vggish import EXAMPLE, VGGish, log_mel, mel_bands, vggish_weights

SECOND = 16000


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights where the published ones would be, of a network whose hidden layers are narrow."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(vggish, "_HIDDEN", 8)
    path = vggish_weights()
    path.parent.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {"features": vggish._convolutions(), "embeddings": vggish._layers()}
    named = {f"{part}.{name}": value for part, network in parts.items() for name, value in network.state_dict().items()}
    torch.save(named, path)
    return path


def sounds(count: int, length: int, seed: int = 0) -> Tensor:
    return 0.2 * torch.randn(count, 1, length, generator=torch.Generator().manual_seed(seed))


def task_of(length: int, rate: int = SECOND) -> SimpleNamespace:
    return SimpleNamespace(data=SimpleNamespace(sample_rate=rate), sample_shape=(1, length), judge=None)


def test_the_published_weights_have_these_names_and_shapes() -> None:
    """As listed for torchvggish's file: 72.1 M parameters in six convolutions and three linear layers."""
    with torch.device("meta"):
        convolutions, layers = vggish._convolutions(), vggish._layers()
    shapes = {name: tuple(value.shape) for name, value in convolutions.state_dict().items() if "weight" in name}
    assert list(shapes) == [f"{k}.weight" for k in (0, 3, 6, 8, 11, 13)]
    assert [tuple(layers[k].weight.shape) for k in (0, 2, 4)] == [(4096, 12288), (4096, 4096), (128, 4096)]
    assert sum(value.numel() for net in (convolutions, layers) for value in net.parameters()) == 72_141_184


def test_the_mel_spectrogram_is_its_formula_frame_by_frame() -> None:
    x = sounds(1, 1000)[:, 0].double()
    found = log_mel(x, torch.from_numpy(mel_bands()))[0].numpy()
    assert found.shape == ((1000 - 400) // 160 + 1, 64)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for k, frame in enumerate(found):
        spectrum = np.abs(np.fft.rfft(x[0].numpy()[160 * k :][:400] * taper, 512))
        np.testing.assert_allclose(frame, np.log(spectrum @ mel_bands() + 0.01), atol=1e-12)


def test_bands_are_triangles_on_the_mel_scale() -> None:
    bands = mel_bands()
    frequencies = np.arange(257) * SECOND / 512
    assert bands.shape == (257, 64)
    assert not bands[(frequencies <= 125) | (frequencies >= 7500)].any()
    inner = (frequencies > 250) & (frequencies < 7000)
    np.testing.assert_allclose(bands[inner].sum(1), 1, atol=1e-12)
    assert (np.diff(bands.argmax(0)) >= 0).all()


def test_embeddings_of_successive_seconds_are_those_of_each_alone(weights: Path) -> None:
    network, x = VGGish(SECOND), sounds(2, 2 * EXAMPLE)
    embeddings = network(x)
    assert embeddings.shape == (2, 2, 128)
    assert (network.examples(EXAMPLE - 1), network.examples(EXAMPLE), network.examples(2 * EXAMPLE)) == (0, 1, 2)
    torch.testing.assert_close(network(x[:, :, :EXAMPLE])[:, 0], embeddings[:, 0])
    torch.testing.assert_close(network(x[:, :, 15360:][:, :, :EXAMPLE])[:, 0], embeddings[:, 1])
    assert embeddings.min() < 0, "no ReLU at the end"


def test_another_sample_rate_is_resampled(weights: Path) -> None:
    t = torch.arange(2 * SECOND, dtype=torch.float64) / (2 * SECOND)
    tone = (0.3 * torch.sin(2 * torch.pi * 440 * t))[None, None].float()
    twice, once = VGGish(2 * SECOND)(tone), VGGish(SECOND)(tone[:, :, ::2])
    assert (twice - once).norm() < 0.01 * once.norm()


def test_the_distance_is_that_of_all_embeddings(weights: Path) -> None:
    metric = FAD().for_task(task_of(2 * EXAMPLE))
    real, drawn = sounds(3, 2 * EXAMPLE), 2 * sounds(2, 2 * EXAMPLE, seed=1)
    metric.add_real(SimpleNamespace(x=real), torch.device("cpu"))
    parts = [metric.rows(drawn[k : k + 1], [k]) for k in range(2)]
    assert {name: rows.shape[1] for name, rows in parts[0].items()} == dict(metric.columns) == {"features_fad": 256}
    sums = [metric.totals(rows, [k]) for k, rows in enumerate(parts)]
    found = metric.summary({name: sums[0][name] + sums[1][name] for name in sums[0]})
    expected = FrechetDistance(128)
    expected.update(VGGish(SECOND)(real).flatten(0, 1), real=True)
    expected.update(VGGish(SECOND)(drawn).flatten(0, 1), real=False)
    assert found["fad"] == pytest.approx(float(expected.compute()), rel=1e-4)


def test_without_weights_or_with_short_clips_it_is_left_out_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match=r"fad is left out: no weights at .*vggish-10086976.pth"):
        assert FAD().for_task(task_of(EXAMPLE)).columns == {}
    with pytest.warns(UserWarning, match=r"fad is left out: VGGish needs clips of 0.975 s, these have 0.256 s"):
        assert FAD().for_task(task_of(1024, 4000)).columns == {}


def test_wrong_weights_are_refused_in_one_line(weights: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, weights)
    with pytest.raises(
        ValueError, match=r"cannot load .*vggish-10086976.pth into VGGish: .*; fetch https://"
    ) as caught:
        VGGish(SECOND)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"no VGGish weights at nowhere.pth: fetch https://"):
        VGGish(SECOND, Path("nowhere.pth"))
    with pytest.raises(ValueError, match=r"VGGish needs 0.975 s of sound, got 10 samples"):
        raise_short(weights)


def raise_short(weights: Path) -> None:
    fresh = {f"features.{k}": v for k, v in vggish._convolutions().state_dict().items()}
    torch.save(fresh | {f"embeddings.{k}": v for k, v in vggish._layers().state_dict().items()}, weights)
    VGGish(SECOND)(sounds(1, 10))
