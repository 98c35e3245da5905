"""Folded images: the fold and its inverse, the plain UNet, sizes, classes, saving."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from tag_lightning.diffusion import LinearSchedule
from tag_lightning.networks import FoldedUNet
from tag_lightning.networks.trial_run import require_accepts
from tag_lightning.pretrained import load_pretrained, save_pretrained

T = torch.tensor([3, 900])


def small_unet(**changes: Any) -> FoldedUNet:
    return FoldedUNet(**{"block_out_channels": (16, 32), "norm_num_groups": 8, "attention_head_dim": 8, **changes})


def images(side: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_folding_turns_squares_of_pixels_into_channels_and_back(channels: int) -> None:
    network = small_unet(in_channels=channels)
    seen: list[Tensor] = []

    class Doubling(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, class_labels: None) -> SimpleNamespace:
            seen.append(x)
            return SimpleNamespace(sample=2 * x)

    network.unet = Doubling()
    x = images(channels=channels)
    assert torch.equal(network(x, T), 2 * x)
    assert torch.equal(seen[0][:, :4, 3, 5], x[:, 0, 6:8, 10:12].flatten(1))


def test_without_folding_it_is_diffusers_unet() -> None:
    network = small_unet(fold=1)
    assert isinstance(network.unet, UNet2DModel)
    assert torch.equal(network(images(), T), network.unet(images(), T).sample)


def test_attention_sits_at_the_last_level_or_where_it_is_asked_for() -> None:
    kinds = [small_unet(attention=chosen).unet.config for chosen in (None, (True, False))]
    assert [kind.down_block_types for kind in kinds] == [
        ("DownBlock2D", "AttnDownBlock2D"),
        ("AttnDownBlock2D", "DownBlock2D"),
    ]
    assert kinds[0].up_block_types == ("AttnUpBlock2D", "UpBlock2D")


def test_the_timestep_and_the_class_are_told() -> None:
    network, x = small_unet(num_class_embeds=3), images()
    labels = torch.tensor([0, 1])
    assert not torch.equal(network(x, T, labels), network(x, T.flip(0), labels))
    assert not torch.equal(network(x, T, labels), network(x, T, labels.flip(0)))


def test_sides_that_do_not_fold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shrinks images 4 times, so .* multiples of that, got \[18, 18\]"):
        small_unet()(images(18), T)
    with pytest.raises(ValueError, match="built for 3 channels"):
        require_accepts(small_unet(), (1, 16, 16), "denoiser", torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 0}, "fold must be at least 1, got 0"),
        ({"attention": (True,)}, "attention needs 2 entries"),
        ({"block_out_channels": (16, 30)}, r"multiples of norm_num_groups \(8\), got \[16, 30\]"),
    ],
)
def test_impossible_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_unet(**changes)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    network = small_unet().eval()
    save_pretrained(tmp_path / "unet", network, LinearSchedule())
    loaded = load_pretrained(str(tmp_path / "unet")).network
    assert isinstance(loaded, FoldedUNet)
    assert torch.equal(loaded(images(), T), network(images(), T))
