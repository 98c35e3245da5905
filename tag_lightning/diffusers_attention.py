"""Negative prompts for one-step models of diffusers, by subtraction inside the cross-attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class NegativeAwaySteerAttention:
    """NASA, the negative prompts of SNOOPI (Nguyen et al. 2024, arXiv 2412.02687), as an attention processor.

    ``Z = Attention(Q, K+, V+) - scale Attention(Q, K-, V-)``, before the output projection, with the keys and values of
    the prompt (+) and of the negative prompt (-). One further attention per layer is all it costs, where
    classifier-free guidance doubles the network. Self-attention is left alone.

    Args:
        negative_states: The negative prompt's embedding, ``[1 or B, L, D]``, as the network takes the prompt's own.
        scale: Strength of the negative prompt, at least 0; 0 is the processor that is wrapped.
        processor: The processor of the layer, which attends to the prompt.

    Raises:
        ValueError: If ``scale`` is out of range or the embedding is not ``[B, L, D]``; in a call, if its batch does not
            fit that of the samples, or the layer normalises the samples itself.
    """

    def __init__(self, negative_states: Tensor, scale: float, processor: Any) -> None:
        if not 0 <= scale < math.inf:
            raise ValueError(f"scale must be a finite number of at least 0, got {scale}")
        if negative_states.ndim != 3:
            raise ValueError(f"negative_states must be embeddings [B, L, D], got {list(negative_states.shape)}")
        self.negative_states, self.scale, self.processor = negative_states, scale, processor

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        positive = self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **inputs)
        if encoder_hidden_states is None or self.scale == 0:
            return positive
        if attn.spatial_norm is not None or attn.group_norm is not None or hidden_states.ndim != 3:
            raise ValueError("NASA takes the cross-attention of transformer blocks, on hidden states [B, L, D]")
        projection: Any = attn.to_out[0]
        # The projection is linear, so the subtraction may follow it, without its bias.
        subtracted = F.linear(self._negative(attn, hidden_states), projection.weight)
        return positive - self.scale * subtracted / attn.rescale_output_factor

    def _negative(self, attn: Attention, hidden_states: Tensor) -> Tensor:
        states, count = self.negative_states.to(hidden_states), len(hidden_states)
        if len(states) not in (1, count):
            raise ValueError(
                f"there are {len(states)} negative prompts for {count} samples; give one, or one per sample (without "
                "classifier-free guidance, which doubles the samples)"
            )
        if attn.norm_cross:
            states = attn.norm_encoder_hidden_states(states)
        states = states.expand(count, -1, -1)
        query, key, value = (
            layer(values).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, values in ((attn.to_q, hidden_states), (attn.to_k, states), (attn.to_v, states))
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


@contextmanager
def negative_prompt(unet: nn.Module, negative_states: Tensor, scale: float = 0.5) -> Iterator[None]:
    """Steer a network of diffusers away from a negative prompt within a ``with`` block; its processors come back.

    Args:
        unet: A network with ``attn_processors``, such as ``UNet2DConditionModel``.
        negative_states: See ``NegativeAwaySteerAttention``; ``pipeline.encode_prompt`` makes them.
        scale: See ``NegativeAwaySteerAttention``.

    Raises:
        ValueError: See ``NegativeAwaySteerAttention``; also if the network has no cross-attention.
    """
    model: Any = unet
    before = dict(getattr(model, "attn_processors", {}))
    crossing = [name for name in before if model.get_submodule(name.removesuffix(".processor")).is_cross_attention]
    if not crossing:
        raise ValueError(
            f"{type(unet).__name__} has no cross-attention of diffusers that a negative prompt could enter"
        )
    steered = {name: NegativeAwaySteerAttention(negative_states, scale, before[name]) for name in crossing}
    model.set_attn_processor(before | steered)
    try:
        yield
    finally:
        model.set_attn_processor(before)
