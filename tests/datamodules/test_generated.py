"""GeneratedDataModule: the samples of a denoiser as data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import TinyNetworks

from tag_lightning.datamodules import GeneratedDataModule, drawn_chunks
from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, Sampler
from tag_lightning.pretrained import load_pretrained


def _data(tiny: TinyNetworks, cache: Path, **changes: object) -> GeneratedDataModule:
    settings = {"num_images": 25, "num_steps": 2, "chunk_size": 10, "cache": str(cache), "batch_size": 4} | changes
    return GeneratedDataModule(str(tiny.root / "denoiser"), **settings)  # type: ignore[arg-type]


def _images(data: GeneratedDataModule) -> torch.Tensor:
    data.prepare_data()
    return torch.cat([data.table(split).images for split in ("train", "val", "test")])  # type: ignore[attr-defined]


def test_the_images_are_those_of_the_sampler(tiny: TinyNetworks, tmp_path: Path) -> None:
    loaded = load_pretrained(tiny.root / "denoiser")
    assert loaded.schedule is not None
    sampler = Sampler(Denoiser(*loaded), DDIM(1.0), 2)
    expected = sampler.sample(ImageSpace((3, 8, 8), range(25)), 7)
    images = _images(_data(tiny, tmp_path, sampling_seed=7))
    assert (images.float() / 127.5 - 1 - expected).abs().max() < 1 / 127
    assert [len(_data(tiny, tmp_path, sampling_seed=7).table(split)) for split in ("train", "val", "test")] == [
        20,
        2,
        3,
    ]  # type: ignore[arg-type]


def test_drawing_goes_on_where_it_was_interrupted(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _images(_data(tiny, tmp_path))
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    files[1].unlink()
    files[2].write_bytes(b"cut off")
    drawn: list[range] = []
    sample = Sampler.sample

    def counted(self: Sampler, space: ImageSpace, seed: int) -> torch.Tensor:
        drawn.append(space.indices)  # type: ignore[arg-type]
        return sample(self, space, seed)

    monkeypatch.setattr(Sampler, "sample", counted)
    assert torch.equal(_images(_data(tiny, tmp_path)), whole)
    assert drawn == [range(10, 20), range(20, 25)]


@pytest.mark.parametrize("change", [{"sampling_seed": 1}, {"num_steps": 3}, {"eta": 0.0}])
def test_other_settings_draw_other_images(change: dict[str, object], tiny: TinyNetworks, tmp_path: Path) -> None:
    assert not torch.equal(_images(_data(tiny, tmp_path)), _images(_data(tiny, tmp_path, **change)))


def test_weights_read_as_another_prediction_draw_other_images(
    tiny: TinyNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clip range and prediction type come from a file beside the weights."""
    images = _images(_data(tiny, tmp_path))
    loaded = load_pretrained(tiny.root / "denoiser")
    for change in ({"prediction_type": "v_prediction"}, {"clip_range": 0.5}):
        monkeypatch.setattr(drawn_chunks, "load_pretrained", lambda _, change=change: loaded._replace(**change))
        assert not torch.equal(_images(_data(tiny, tmp_path)), images)


def test_a_classifier_labels_the_images(tiny: TinyNetworks, tmp_path: Path) -> None:
    data = _data(tiny, tmp_path, classifier=str(tiny.root / "judge"))
    data.prepare_data()
    batch = data.table("train")[list(range(20))]
    with torch.no_grad():
        expected = load_pretrained(tiny.root / "judge").network.eval()(batch.x).argmax(1)
    assert torch.equal(batch.attributes["label"], expected)
    assert data.num_classes == {"label": load_pretrained(tiny.root / "judge").network.num_classes}


def test_wrong_settings_are_named(tiny: TinyNetworks, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_images must be at least 20"):
        _data(tiny, tmp_path, num_images=3)
    with pytest.raises(ValueError, match="is not a denoiser"):
        GeneratedDataModule(str(tiny.root / "judge"), cache=str(tmp_path)).prepare_data()
    with pytest.raises(FileNotFoundError, match="no network under nowhere"):
        GeneratedDataModule("nowhere", cache=str(tmp_path)).prepare_data()
