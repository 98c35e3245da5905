"""Negative prompts by subtraction in the cross-attention of a UNet of diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from problems import random_vectors
from tiny_runs import UNET, seeded
from torch import Tensor

from tag_lightning.diffusers_attention import NegativeAwaySteerAttention, negative_prompt


def attention_layer(**settings: object) -> Attention:
    return seeded(lambda: Attention(6, 10, heads=2, dim_head=4, bias=True, **settings), 0).double().eval()


def plain(attn: Attention, x: Tensor, states: Tensor) -> Tensor:
    """One head after the other, before the output projection, ``[B, L, heads * dim]``."""
    heads = []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        query, key, value = (
            values @ layer.weight[rows].T + (0 if layer.bias is None else layer.bias[rows])
            for layer, values in ((attn.to_q, x), (attn.to_k, states), (attn.to_v, states))
        )
        heads.append((query @ key.mT / 2).softmax(-1) @ value)
    return torch.cat(heads, -1)


@pytest.mark.parametrize("rescale", [1.0, 3.0])
@pytest.mark.parametrize("count", [1, 3], ids=["shared", "own"])
@pytest.mark.parametrize("inner", [AttnProcessor, AttnProcessor2_0])
def test_it_is_the_published_difference(inner: type, count: int, rescale: float) -> None:
    attn = attention_layer(rescale_output_factor=rescale, residual_connection=rescale > 1)
    x, positive, negative = (
        random_vectors(3, 5, 6),
        random_vectors(3, 7, 10, seed=1),
        random_vectors(count, 4, 10, seed=2),
    )
    z = plain(attn, x, positive) - 0.7 * plain(attn, x, negative.expand(3, -1, -1))
    projection = attn.to_out[0]
    expected = z @ projection.weight.T + projection.bias
    expected = (expected + x) / rescale if rescale > 1 else expected
    steered = NegativeAwaySteerAttention(negative, 0.7, inner())
    torch.testing.assert_close(steered(attn, x, positive), expected, atol=1e-12, rtol=1e-12)
    nothing = NegativeAwaySteerAttention(negative, 0.0, inner())
    assert torch.equal(nothing(attn, x, positive), inner()(attn, x, positive))


def conditional_unet() -> UNet2DConditionModel:
    settings = {name: value for name, value in UNET.items() if name not in ("down_block_types", "up_block_types")}
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 10}
    blocks["up_block_types"] = ("CrossAttnUpBlock2D", "UpBlock2D")
    return seeded(lambda: UNet2DConditionModel(**{**settings, **blocks}), 0).eval()


@torch.no_grad()
def test_a_network_is_steered_within_the_block_alone() -> None:
    unet, x = conditional_unet(), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompt, negative = random_vectors(2, 5, 10).float(), random_vectors(1, 3, 10, seed=1).float()
    plain = unet(x, 10, prompt).sample
    before = dict(unet.attn_processors)
    outputs = []
    for scale in (0.0, 0.5):
        with negative_prompt(unet, negative, scale):
            steered = {type(p) for name, p in unet.attn_processors.items() if ".attn2." in name}
            assert steered == {NegativeAwaySteerAttention}
            outputs.append(unet(x, 10, prompt).sample)
    assert torch.equal(outputs[0], plain)
    assert float((outputs[1] - plain).abs().max()) > 1e-3
    assert unet.attn_processors == before
    with pytest.raises(RuntimeError, match="within"), negative_prompt(unet, negative):
        raise RuntimeError("within")
    assert torch.equal(unet(x, 10, prompt).sample, plain)


def test_what_it_cannot_do_is_one_line() -> None:
    attn, x, prompt = attention_layer(), random_vectors(4, 5, 6), random_vectors(4, 7, 10)
    with pytest.raises(ValueError, match="there are 3 negative prompts for 4 samples"):
        NegativeAwaySteerAttention(random_vectors(3, 2, 10), 0.5, AttnProcessor2_0())(attn, x, prompt)
    for scale in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="scale must be a finite number of at least 0"):
            NegativeAwaySteerAttention(prompt, scale, AttnProcessor2_0())
    with pytest.raises(ValueError, match=r"embeddings \[B, L, D\], got \[2, 10\]"):
        NegativeAwaySteerAttention(random_vectors(2, 10), 0.5, AttnProcessor2_0())
    with pytest.raises(ValueError, match="UNet2DModel has no cross-attention"), negative_prompt(UNet2DModel(**UNET), x):
        pass
