"""Names of public models: the Hub's are downloaded, and a missing file says where to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from tiny_runs import UNET, seeded

from tag_lightning.pretrained import load_pretrained


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A model in the layout of ``google/ddpm-cifar10-32``, which is a model beside its scheduler."""
    seeded(lambda: UNet2DModel(**UNET), 0).save_pretrained(tmp_path / "hub")
    DDPMScheduler().save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


@pytest.mark.parametrize(("source", "revision"), [("hf://a/b", None), ("hf://a/b@main", "main")])
def test_a_model_of_the_hub_is_downloaded(
    source: str, revision: str | None, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(name: str, **settings: Any) -> str:
        calls.append((name, settings["revision"]))
        assert not any(pattern.endswith("py") for pattern in settings["allow_patterns"])
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = load_pretrained(source)
    assert calls == [("a/b", revision)]
    assert loaded.schedule is not None
    assert loaded.clip_range == 1.0


def test_without_a_network_it_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        FileNotFoundError, match=r"download https://huggingface\.co/google/ddpm-cat-256 .* models/ddpm-"
    ):
        load_pretrained("hf://google/ddpm-cat-256")


@pytest.mark.parametrize("source", ["hf://", "hf://name", "hf://a/b/c", "hf:///b"])
def test_other_forms_of_name_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="must be hf://owner/name"):
        load_pretrained(source)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("models/256x256_diffusion_uncond.pt", "jul-2021/256x256_diffusion_uncond.pt to models/256x256_diffusion_unc"),
        ("models/cifar10_uncond_50M_500K.pt", "march-2021/cifar10_uncond_50M_500K.pt to models/cifar10_uncond_50M_50"),
        (
            "models/edm_qm9",
            "copy the folder outputs/edm_qm9 of https://github.com/ehoogeboom/e3_diffusion_for_molecules",
        ),
        ("models/exp_35_conditional_nf192_9l_alpha", "copy the folder outputs/exp_35_conditional_nf192_9l_alpha of"),
    ],
)
def test_a_missing_file_says_where_to_get_it(source: str, named: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_pretrained(source)
    assert named in str(caught.value)


def test_pickled_weights_of_diffusers_are_read_without_executing(published: Path) -> None:
    """Older public models have no safetensors."""
    network = UNet2DModel.from_pretrained(published)
    (published / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(network.state_dict(), published / "diffusion_pytorch_model.bin")
    loaded = load_pretrained(published).network
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())
    torch.save({"network": network}, published / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="holds more than weights and plain values"):
        load_pretrained(published)
