"""Noise of samples that depends on the seed, the stream and the sample's global index alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from operator import index

import numpy as np
import torch
from torch import Tensor

_WORD_BITS = 32

# Apart from the streams of solver, guidance and observers.
_FIRST_BRANCH = 2**34


def entropy_words(*values: int) -> list[int]:
    """Encode integers as 32-bit words for ``SeedSequence``, so that no two tuples of a length give the same seed.

    ``SeedSequence`` pads with zeros, so trailing zeros must not matter. The low word of each value comes first. If a
    value needs more than 32 bits, each value then adds the count of its remaining words and the words themselves;
    padding reads as counts of zero.

    Args:
        *values: Non-negative integers.

    Returns:
        The words; the values themselves if all are below 2**32.

    Raises:
        ValueError: If a value is negative.
    """
    integers = [index(value) for value in values]
    if min(integers) < 0:
        raise ValueError(f"seed, stream and index must be at least 0, got {integers}")
    words = [value % 2**_WORD_BITS for value in integers]
    rests = [value >> _WORD_BITS for value in integers]
    for rest in rests if any(rests) else ():
        count = -(-rest.bit_length() // _WORD_BITS)
        words += [count, *((rest >> _WORD_BITS * k) % 2**_WORD_BITS for k in range(count))]
    return words


class SampleNoise:
    """Standard normal noise from one generator per sample, drawn on the CPU.

    The noise of a sample depends on the seed, the stream and the sample's global index alone. It is the same in every
    batch, on every process and for every sampler. ``Space.noise_source`` makes the source of a batch: this one for
    samples on a CPU, ``CounterNoise`` for those on an accelerator.

    Args:
        seed: Non-negative seed of the run.
        indices: Global index of each sample of the batch.
        stream: Separates independent uses of noise under one seed: a new consumer with its own stream leaves the
            others as they were.
    """

    def __init__(self, seed: int, indices: Sequence[int], stream: int = 0) -> None:
        self._seed, self._indices, self._stream = seed, indices, stream

    def branch(self, name: str) -> SampleNoise:
        """The noise of the same samples from a stream that depends on this one and on ``name`` alone."""
        return self._with_stream(_FIRST_BRANCH + zlib.crc32(f"{self._stream} {name}".encode()))

    def _with_stream(self, stream: int) -> SampleNoise:
        return SampleNoise(self._seed, self._indices, stream)

    @cached_property
    def _generators(self) -> list[np.random.Generator]:
        # Built at the first draw: constructing them for guidance that never draws would cost more than a small step.
        keys = (np.random.SeedSequence(entropy_words(self._seed, self._stream, i)) for i in self._indices)
        return [np.random.Generator(np.random.Philox(key=key.generate_state(2, np.uint64))) for key in keys]

    def normal(self, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """One float32 tensor per sample, row ``i`` of shape ``shapes[i]``, for samples that differ in shape."""
        return [
            torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
            for generator, shape in zip(self._generators, shapes, strict=True)
        ]

    def batch(self, shape: Sequence[int], sizes: Sequence[int] | None = None) -> Tensor:
        """Noise of a whole batch, ``[B, *shape]`` in float32.

        Args:
            shape: Shape of one sample, padding included.
            sizes: Number of rows of each sample, the others along its first axis being padding. The noise of those rows
                is the same for every amount of padding; that of the padding has no meaning. None has no padding.
        """
        if sizes is None:
            return torch.stack(self.normal([shape] * len(self._indices)))
        # Drawn row by row, so that a sample's noise does not depend on the padding.
        padded = torch.zeros(len(sizes), *shape)
        for place, values in zip(padded, self.normal([(size, *shape[1:]) for size in sizes]), strict=True):
            place[: len(values)] = values
        return padded

    def integers(self, high: int) -> Tensor:
        """One integer per sample, uniform in ``0 .. high - 1``, ``[B]`` in int64."""
        return torch.tensor([int(generator.integers(high)) for generator in self._generators], dtype=torch.long)
