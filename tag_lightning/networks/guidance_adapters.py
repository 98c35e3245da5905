"""Adapters on a frozen conditional UNet, told a guidance scale: classifier-free guidance in one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from tag_lightning.diffusion import CONDITION_KEY, Conditioning
from tag_lightning.networks.frozen_base import OnFrozenBase, public_config, weights_digest, zero

AdapterKind = Literal["perceptron", "cross_attention", "offset"]


class AdaptedUNet(OnFrozenBase):
    """A conditional UNet with adapters that imitate classifier-free guidance (AGD, arXiv 2503.07274, Section 4).

    Without a guidance scale it is the UNet itself. With one, every attention and residual block adds the answer of its
    adapter, which sees the embeddings of scale, timestep and class; the last two are the UNet's own. Adapters start at
    zero. The UNet's weights are frozen and not saved with the adapters: ``load_pretrained`` takes them from ``base``
    and refuses others than those that the adapters were made for.

    The paper has two kinds of adapters on the attention blocks alone: ``cross_attention`` from the image to the three
    embeddings, and an ``offset`` that does not see the image. ``perceptron``, the default, is closer to the gated one
    of the published code: two layers on each pixel's features, the inner one scaled and shifted by the embeddings.

    Args:
        base: The UNet: a shipped network's name, a folder, or a checkpoint.
        base_config: Its configuration.
        base_digest: Digest of its weights, see ``weights_digest``.
        width: Width of the embeddings and of the adapters.
        kind: Kind of the adapters.

    Attributes:
        scale_range: Smallest and largest guidance scale in training, ``[2]``; NaN before.

    Raises:
        ValueError: If ``width`` is odd or below 2, or ``kind`` unknown.
    """

    nan_until_measured = ("scale_range",)
    scale_range: Tensor

    @register_to_config
    def __init__(
        self,
        base: str,
        base_config: Mapping[str, Any],
        base_digest: str,
        width: int = 32,
        kind: AdapterKind = "perceptron",
    ) -> None:
        if width < 2 or width % 2:
            raise ValueError(f"width must be an even number of at least 2, got {width}")
        if kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
        super().__init__(UNet2DModel.from_config(dict(base_config)))
        self.width = width
        told = self.frozen.time_embedding.linear_2.out_features
        self.embed_scale = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_timestep = nn.Linear(told, width)
        self.embed_class = nn.Linear(told, width)
        self.adapters = nn.ModuleList()
        for block in self.frozen.modules():
            if isinstance(block, Attention | ResnetBlock2D):
                channels = block.out_dim if isinstance(block, Attention) else block.out_channels
                adapter = _KINDS[kind](channels, width)
                block.register_forward_hook(adapter.added)
                self.adapters.append(adapter)
        self.register_buffer("scale_range", torch.full((2,), torch.nan))

    @classmethod
    def on(cls, unet: nn.Module, base: str, width: int = 32, kind: AdapterKind = "perceptron") -> Self:
        """Adapters for a conditional UNet, about to be trained.

        Args:
            unet: The UNet.
            base: The name under which ``load_pretrained`` finds it.
            width: See the class.
            kind: See the class.

        Raises:
            ValueError: If the UNet is not told a class, or was always told it.
        """
        network: Any = unet
        conditioning = Conditioning.of(unet)
        if conditioning is None or not conditioning.has_null or network.class_embedding is None:
            raise ValueError(
                f"base {base} is not told a class that was dropped at random in training, so it has no classifier-free "
                "guidance; give a conditional denoiser, such as digits/conditional_denoiser"
            )
        made = cls(base, public_config(unet), weights_digest(unet), width, kind)
        made.register_to_config(**{CONDITION_KEY: dict(network.config)[CONDITION_KEY]})
        made.attach(unet)
        return made

    @property
    def conditioning(self) -> Conditioning:
        """The condition that the UNet is told."""
        found = Conditioning.of(self)
        assert found is not None
        return found

    def forward(
        self, sample: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: Tensor | None = None
    ) -> UNet2DOutput:
        """The predicted noise as ``.sample [B, C, H, W]``.

        Args:
            sample: Noisy images ``[B, C, H, W]``.
            timesteps: Their training timesteps ``[B]``.
            class_labels: The class of each, ``[B]``; K is the null class.
            guidance_scale: The scale of each, ``[B]``; None leaves the adapters out.
        """
        if guidance_scale is None:
            return self.frozen(sample, timesteps, class_labels=class_labels)
        embeddings = self._embeddings(timesteps, class_labels, guidance_scale)
        try:
            self._tell(embeddings)
            return self.frozen(sample, timesteps, class_labels=class_labels)
        finally:
            self._tell(None)

    def _tell(self, embeddings: Tensor | None) -> None:
        for adapter in self.adapters:
            cast(_Adapter, adapter).told = embeddings

    def _embeddings(self, timesteps: Tensor, class_labels: Tensor, guidance_scale: Tensor) -> Tensor:
        """Those of scale, timestep and class, ``[B, 3, width]``."""
        low, high = self.scale_range
        # The fastest wave of the embedding turns some 16 times over the range, the others slower.
        place = 100 * (guidance_scale - low) / (high - low)
        unet = self.frozen
        embedded = unet.time_embedding(unet.time_proj(timesteps).to(unet.dtype))
        classes = unet.class_embedding(class_labels)
        scales = self.embed_scale(get_timestep_embedding(place, self.width).to(unet.dtype))
        return torch.stack((scales, self.embed_timestep(embedded), self.embed_class(classes)), 1)


class _Adapter(nn.Module, ABC):
    """Adds its answer to the output of a block, while it is told embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.told: Tensor | None = None

    def added(self, block: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """The forward hook of the block."""
        return output if self.told is None else output + self(output, self.told)

    @abstractmethod
    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """The answer ``[B, C, H, W]`` about features ``x`` of that shape, told embeddings ``[B, 3, width]``."""


class _Perceptron(_Adapter):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, width)
        self.film = nn.Linear(width, 2 * width)
        self.outer = zero(nn.Linear(width, channels))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.film(F.silu(told.sum(1)))[:, None].chunk(2, -1)
        hidden = F.silu(self.inner(x.flatten(2).mT) * (1 + scale) + shift)
        return self.outer(hidden).mT.reshape(x.shape)


class _CrossAttention(_Adapter):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(3, width))  # tells the three embeddings apart
        self.queries, self.keys, self.values = (nn.Linear(n, width, bias=False) for n in (channels, width, width))
        self.outer = zero(nn.Linear(width, channels))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        told = told + self.place
        queries = self.queries(x.flatten(2).mT)
        mixed = F.scaled_dot_product_attention(queries, self.keys(told), self.values(told))
        return self.outer(mixed).mT.reshape(x.shape)


class _Offset(_Adapter):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = zero(nn.Linear(width, channels))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.outer(F.silu(self.inner(told.sum(1))))[:, :, None, None].expand_as(x)


_KINDS: dict[str, type[Any]] = {"perceptron": _Perceptron, "cross_attention": _CrossAttention, "offset": _Offset}
