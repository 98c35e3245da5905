"""Adapters on a conditional UNet: silent at first, told the scale, saved without the UNet, faithful to it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from tiny_runs import seeded
from torch import Tensor

from tag_lightning.diffusion import Conditioning, Denoiser, LinearSchedule
from tag_lightning.networks import AdaptedUNet
from tag_lightning.networks.guidance_adapters import AdapterKind
from tag_lightning.pretrained import load_pretrained, save_pretrained

SCHEDULE, CLASSES = LinearSchedule(20), 3
KINDS: list[AdapterKind] = ["perceptron", "cross_attention", "offset"]


def unet(seed: int = 0, dropout: float = 0.1) -> UNet2DModel:
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    made = seeded(lambda: UNet2DModel(**shape, **blocks, attention_head_dim=4, num_class_embeds=CLASSES + 1), seed)
    assert isinstance(made, UNet2DModel)
    Conditioning.for_training(made, "label", dropout)
    return made.eval()


def inputs(count: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, timesteps, classes and scales."""
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return x, torch.arange(count) * 4, torch.arange(count) % CLASSES, torch.linspace(1, 4, count)


def adapted(base: str, network: UNet2DModel, awake: bool = True, kind: AdapterKind = "perceptron") -> AdaptedUNet:
    made = AdaptedUNet.on(network, base, width=8, kind=kind).eval()
    made.scale_range.copy_(torch.tensor([1.0, 4.0]))
    if awake:
        for adapter in made.adapters:
            torch.nn.init.constant_(adapter.outer.weight, 0.1)
    return made


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_pretrained(tmp_path / "base", unet(), SCHEDULE)
    return tmp_path / "base"


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_leave_the_answer_as_it_is(kind: AdapterKind) -> None:
    x, t, y, w = inputs()
    network = adapted("base", unet(), awake=False, kind=kind)
    assert len(network.adapters) == 6  # one residual block down, two in the middle with attention, two up
    with torch.no_grad():
        plain = unet()(x, t, class_labels=y).sample
        torch.testing.assert_close(network(x, t, y, w).sample, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_told_scale_timestep_and_class_and_only_with_a_scale(kind: AdapterKind) -> None:
    network = adapted("base", unet(), kind=kind)
    x, t, y, w = inputs()
    with torch.no_grad():
        plain = network.frozen(x, t, class_labels=y).sample
        assert torch.equal(network(x, t, y).sample, plain)
        torch.testing.assert_close(plain, unet()(x, t, class_labels=y).sample, rtol=1e-4, atol=1e-6)
        first = network(x, t, y, w).sample
        assert not torch.allclose(first, network(x, t, y, w + 0.5).sample, atol=1e-4)
        adapters, told = network.adapters[0], network._embeddings(t, y, w)
        features = torch.randn(4, 8, 8, 8)
        for other in (network._embeddings(t + 1, y, w), network._embeddings(t, (y + 1) % CLASSES, w)):
            assert not torch.allclose(adapters(features, told), adapters(features, other))
        assert torch.equal(network(x, t, y, w).sample, first)  # nothing is remembered


def test_an_offset_does_not_see_the_image() -> None:
    network = adapted("base", unet(), kind="offset")
    _, t, y, w = inputs()
    offset = network.adapters[0](torch.randn(4, 8, 8, 8), network._embeddings(t, y, w))
    assert torch.equal(offset, offset[:, :, :1, :1].expand_as(offset))


def test_each_sample_has_its_own_scale() -> None:
    network, (x, t, y, w) = adapted("base", unet()), inputs()
    with torch.no_grad():
        together = network(x, t, y, w).sample
        alone = torch.cat([network(x[i : i + 1], t[i : i + 1], y[i : i + 1], w[i : i + 1]).sample for i in range(4)])
    torch.testing.assert_close(together, alone)


def test_a_copy_has_adapters_of_its_own() -> None:
    """An average of the weights is made of a copy."""
    network, (x, t, y, w) = adapted("base", unet()), inputs()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        before = network(x, t, y, w).sample
        for adapter in twin.adapters:
            adapter.outer.weight.zero_()
        assert torch.equal(network(x, t, y, w).sample, before)
        plain = unet()(x, t, class_labels=y).sample
        torch.testing.assert_close(twin(x, t, y, w).sample, plain, rtol=1e-5, atol=1e-6)


def test_the_adapters_are_saved_alone_and_come_back_on_their_unet(base: Path, tmp_path: Path) -> None:
    network, (x, t, y, w) = adapted(str(base), unet()), inputs()
    save_pretrained(tmp_path / "saved", network, SCHEDULE)
    saved = load_file(tmp_path / "saved" / "diffusion_pytorch_model.safetensors")
    assert not any(name.startswith("frozen.") for name in saved)
    loaded = load_pretrained(tmp_path / "saved")
    assert isinstance(loaded.network, AdaptedUNet)
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    denoiser = Denoiser(*loaded)
    assert denoiser.scale_range == (1.0, 4.0)
    assert denoiser.conditioning == Conditioning.of(unet())
    with torch.no_grad():
        torch.testing.assert_close(
            denoiser(x, t, class_labels=y, guidance_scale=w).epsilon, network(x, t, y, w).sample, rtol=1e-4, atol=1e-5
        )


def _other_weights(base: Path) -> None:
    save_pretrained(base, unet(seed=1), SCHEDULE)


def _other_architecture(base: Path) -> None:
    other = UNet2DModel(sample_size=8, block_out_channels=(4,), down_block_types=("DownBlock2D",),
                        up_block_types=("UpBlock2D",), norm_num_groups=4)  # fmt: skip
    save_pretrained(base, other, SCHEDULE)


@pytest.mark.parametrize("change", [_other_weights, _other_architecture])
def test_adapters_of_another_base_are_refused_in_one_line(change: Any, base: Path, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "saved", adapted(str(base), unet()), SCHEDULE)
    change(base)
    with pytest.raises(
        ValueError, match=r"the AdaptedUNet was trained on another UNet2DModel than .*base is now"
    ) as caught:
        load_pretrained(tmp_path / "saved")
    assert "\n" not in str(caught.value)


def test_a_base_that_is_gone_is_named(base: Path, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "saved", adapted(str(base), unet()), SCHEDULE)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"cannot load the AdaptedUNet in .*saved: no network under .*base"):
        load_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"width": 7}, "width must be an even number of at least 2, got 7"),
        ({"kind": "gate"}, "kind must be one of perceptron, cross_attention, offset, got 'gate'"),
    ],
)
def test_impossible_adapters_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AdaptedUNet.on(unet(), "base", **settings)


def test_a_unet_that_cannot_do_without_its_class_is_refused() -> None:
    with pytest.raises(ValueError, match="base mine is not told a class that was dropped at random in training"):
        AdaptedUNet.on(unet(dropout=0.0), "mine")
