"""Experts per range of noise on a classifier of clean images, which stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tag_lightning.networks.classifier import ImageClassifier
from tag_lightning.networks.frozen_base import OnFrozenBase, public_config, weights_digest, zero


class NoiseExperts(OnFrozenBase):
    """A classifier of noisy images: an expert for each range of timesteps (PPAP, arXiv 2212.05973, Section 4).

    Expert ``n`` of N answers for ``n T / N <= t < (n + 1) T / N``. It is the frozen classifier of clean images with a
    low-rank addition to every convolution (LoRA, arXiv 2106.09685), biases of its own and, behind every normalisation,
    a scale and shift of each channel; the last layer stays. That is what the published code trains, except that the
    addition here is a convolution to ``rank`` channels and a 1x1 convolution back, and not a product of flattened
    kernels. New experts are the classifier itself. Without timesteps, images are clean and the classifier answers.

    Args:
        base: The classifier: a shipped network's name, a folder, or a checkpoint.
        base_config: Its configuration.
        base_digest: Digest of its weights, see ``weights_digest``.
        num_timesteps: T of the denoiser's schedule.
        num_experts: N, in 1 .. T; 5 is published.
        rank: Rank of the additions, at least 1.

    Raises:
        ValueError: If a number is out of range.
    """

    @register_to_config
    def __init__(
        self,
        base: str,
        base_config: Mapping[str, Any],
        base_digest: str,
        num_timesteps: int = 1000,
        num_experts: int = 5,
        rank: int = 8,
    ) -> None:
        if not 1 <= num_experts <= num_timesteps:
            raise ValueError(f"num_experts must lie in 1 .. {num_timesteps} (the timesteps), got {num_experts}")
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        super().__init__(ImageClassifier.from_config(dict(base_config)))
        self.num_timesteps = num_timesteps
        self.num_experts = num_experts
        self.tuned = nn.ModuleList()
        for layer in self.frozen.modules():
            if isinstance(layer, nn.Conv2d | nn.GroupNorm):
                kind: Any = _LowRank if isinstance(layer, nn.Conv2d) else _Affine
                tuned = _TunedLayer([kind(layer, rank) for _ in range(num_experts)])
                layer.register_forward_hook(tuned.changed)
                self.tuned.append(tuned)

    @classmethod
    def on(cls, classifier: nn.Module, base: str, num_timesteps: int, num_experts: int = 5, rank: int = 8) -> Self:
        """Experts for a classifier of clean images, about to be trained.

        Args:
            classifier: The classifier.
            base: The name under which ``load_pretrained`` finds it.
            num_timesteps: See the class.
            num_experts: See the class.
            rank: See the class.

        Raises:
            ValueError: If it is not an ``ImageClassifier``.
        """
        if not isinstance(classifier, ImageClassifier):
            raise ValueError(f"base {base} is a {type(classifier).__name__}; experts are made on an ImageClassifier")
        made = cls(base, public_config(classifier), weights_digest(classifier), num_timesteps, num_experts, rank)
        made.attach(classifier)
        return made

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return self.frozen.num_classes

    def expert_of(self, timesteps: Tensor) -> Tensor:
        """The index of the expert for each of ``timesteps [B]``, ``[B]``."""
        return timesteps * self.num_experts // self.num_timesteps

    def forward(self, x: Tensor, timesteps: Tensor | None = None) -> Tensor:
        """Class logits ``[B, K]`` of images ``x [B, C, H, W]``.

        Args:
            x: Noisy images, or clean ones in [-1, 1].
            timesteps: Timesteps of noisy images, ``[B]`` in 0 .. T-1; None for clean images.
        """
        if timesteps is None:
            return self.frozen(x)
        experts = self.expert_of(timesteps)
        logits = x.new_empty(len(x), self.num_classes)
        for expert in experts.unique().tolist():
            chosen = (experts == expert).nonzero()[:, 0]
            logits = logits.index_copy(0, chosen, self._asked(expert, x[chosen]))
        return logits

    def _asked(self, expert: int, x: Tensor) -> Tensor:
        try:
            self._choose(expert)
            return self.frozen(x)
        finally:
            self._choose(None)

    def _choose(self, expert: int | None) -> None:
        for layer in self.tuned:
            cast(_TunedLayer, layer).expert = expert


class _TunedLayer(nn.Module):
    """The changes of all experts to the output of one layer, of which one is asked at a time."""

    def __init__(self, changes: list[nn.Module]) -> None:
        super().__init__()
        self.changes = nn.ModuleList(changes)
        self.expert: int | None = None

    def changed(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The forward hook of the layer."""
        return output if self.expert is None else output + self.changes[self.expert](arguments[0], output)


class _LowRank(nn.Module):
    """A low-rank change of a convolution's kernel, and a change of its bias."""

    def __init__(self, layer: nn.Conv2d, rank: int) -> None:
        super().__init__()
        shape: Any = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        self.down = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **shape)  # type: ignore[arg-type]
        self.up = zero(nn.Conv2d(rank, layer.out_channels, 1))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        return self.up(self.down(x))


class _Affine(nn.Module):
    """A scale and shift of each channel behind a normalisation."""

    def __init__(self, layer: nn.GroupNorm, rank: int) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.zeros(layer.num_channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        return output * self.scale + self.shift
