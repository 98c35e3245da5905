"""Noise drawn where the samples live, by a counter-based generator in tensor arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tag_lightning.diffusion.device_transfer import on_device
from tag_lightning.diffusion.sample_noise import SampleNoise

_MULTIPLIERS, _WEYL, _ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10
_HALF, _WORD = 0xFFFF, 0xFFFFFFFF


class Philox4x32:
    """Philox4x32-10, random words as a function of a key and a counter.

    From Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Words of 32 bits are held in int64. The
    product of two may exceed that, so it is taken in two parts, each below 2^49.

    Args:
        key: Two words in ``0 .. 2^32 - 1``.
        device: Device of the counters.
    """

    def __init__(self, key: Sequence[int], device: torch.device | str = "cpu") -> None:
        keys = [[(word + k * weyl) & _WORD for word, weyl in zip(key, _WEYL, strict=True)] for k in range(_ROUNDS)]
        upper, lower = ([m >> 16 for m in _MULTIPLIERS], [m & _HALF for m in _MULTIPLIERS])
        self._constants = on_device(torch.tensor([upper, lower, *keys]), torch.device(device))

    def __call__(self, counters: Tensor) -> Tensor:
        """The four words of each counter of four words, the lowest first: ``[..., 4]`` to ``[..., 4]``, int64."""
        upper, lower, *keys = self._constants
        even, odd = counters[..., 0::2], counters[..., 1::2]
        for key in keys:
            high, low = upper * even, lower * even
            shifted = high + (low >> 16)  # the product without its lowest 16 bits
            rest = torch.add(low, high & _HALF, alpha=1 << 16) & _WORD
            even, odd = (shifted >> 16).flip(-1) ^ odd ^ key, rest.flip(-1)
        return torch.stack((even, odd), -1).flatten(-2)


def box_muller(words: Tensor) -> Tensor:
    """As many standard normals in float32 as ``words``, uniform in ``0 .. 2^32 - 1``, ``[..., 4]`` to ``[..., 4]``.

    The radius is made of the uniform number ``(word + 1/2) / 2^32``, which float32 rounds into [2^-33, 1]. So no
    logarithm is infinite, and no normal exceeds 6.77.
    """
    radius = (-2 * ((words[..., 0::2].float() + 0.5) * 2.0**-32).log()).sqrt()
    angle = words[..., 1::2].float() * (2 * math.pi * 2.0**-32)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -1).flatten(-2)


class CounterNoise(SampleNoise):
    """Standard normal noise as a function of seed, stream, global index, draw and position, computed on a device.

    Philox4x32-10, its key made of seed and stream, is given counters of position, draw and index. So the noise of a
    sample is the same in every batch, on every process and under any padding. No draw makes the host wait, and after
    the first none copies anything to the device.

    The noise is not that of ``SampleNoise`` under the same seed. Between kinds of devices it differs in the last bits,
    by the rounding of logarithm and cosine.

    Args:
        seed: Non-negative seed of the run.
        indices: Global index of each sample of the batch.
        stream: See ``SampleNoise``.
        device: Device to draw on.
    """

    def __init__(self, seed: int, indices: Sequence[int], stream: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(seed, indices, stream)
        self._device, self._draws = torch.device(device), 0

    def _with_stream(self, stream: int) -> CounterNoise:
        return CounterNoise(self._seed, self._indices, stream, self._device)

    @cached_property
    def _philox(self) -> Philox4x32:
        key = np.random.SeedSequence(self._seed, spawn_key=(self._stream,)).generate_state(2, np.uint32)
        return Philox4x32([int(word) for word in key], self._device)

    @cached_property
    def _index_words(self) -> Tensor:
        words = torch.tensor([(i & _WORD, i >> 32) for i in self._indices], dtype=torch.long).reshape(-1, 1, 2)
        return on_device(words, self._device)

    def _words(self, count: int) -> Tensor:
        """The words of the next draw, ``[B, ceil(count / 4), 4]``."""
        blocks = math.ceil(count / 4)
        counters = torch.empty(len(self._indices), blocks, 4, dtype=torch.long, device=self._device)
        counters[..., 0] = torch.arange(blocks, device=self._device)
        counters[..., 1].fill_(self._draws)
        counters[..., 2:] = self._index_words
        self._draws += 1
        return self._philox(counters)

    def _normals(self, count: int) -> Tensor:
        """``[B, count]``; the first of them are the same for every count."""
        return box_muller(self._words(count)).flatten(1)[:, :count]

    def normal(self, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        counts = [math.prod(shape) for shape in shapes]
        rows = self._normals(max(counts, default=0))
        return [row[:count].reshape(tuple(shape)) for row, count, shape in zip(rows, counts, shapes, strict=True)]

    def batch(self, shape: Sequence[int], sizes: Sequence[int] | None = None) -> Tensor:
        # Positions count row by row, so those of a sample's own rows do not depend on the padding behind them.
        return self._normals(math.prod(shape)).reshape(-1, *shape)

    def integers(self, high: int) -> Tensor:
        """As ``SampleNoise.integers``, for ``high`` up to 2^31; no integer is likelier than another by 2^-33."""
        words = self._words(1)[:, 0]
        # The upper part of the 96-bit product of high and the first two words.
        return words[:, 0] * high + (words[:, 1] * high >> 32) >> 32
