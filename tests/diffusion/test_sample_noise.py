"""Entropy of noise: what was drawn with small numbers stays, and no two different uses share a stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tag_lightning.diffusion import SampleNoise
from tag_lightning.diffusion.sample_noise import entropy_words

small = st.integers(0, 2**32 - 1)
numbers = st.one_of(
    small,
    st.integers(0, 2**160),
    st.sampled_from([0, 1, 2, 3, 2**32 - 1, 2**32, 2**33, 2**34, 3 << 32, 2**64, 1 << 96]),
)
triples = st.tuples(numbers, numbers, numbers)


def stripped(words: list[int]) -> tuple[int, ...]:
    """Without the zeros at the end, which ``SeedSequence`` adds."""
    while words and words[-1] == 0:
        words = words[:-1]
    return tuple(words)


@given(triples, triples)
def test_different_triples_have_different_entropy(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (stripped(entropy_words(*one)) == stripped(entropy_words(*other))) == (one == other)


@given(triples)
def test_words_have_32_bits(triple: tuple[int, int, int]) -> None:
    assert all(0 <= word < 2**32 for word in entropy_words(*triple))


@given(st.tuples(small, small, small))
def test_values_below_two_to_the_32_are_their_own_words(triple: tuple[int, int, int]) -> None:
    assert entropy_words(*triple) == list(triple)


def test_the_noise_of_a_small_triple_is_pinned() -> None:
    key = np.random.SeedSequence((5, 2, 7)).generate_state(2, np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal(4, dtype=np.float32)
    found = SampleNoise(5, [7], 2).normal([(4,)])[0]
    assert torch.equal(found, torch.from_numpy(expected))
    torch.testing.assert_close(found, torch.tensor([-2.2821729, -1.2482126, 0.5119291, -0.3692488]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [((0, 0, 3), (3 << 32, 0, 0)), ((5, 0, 2**33), (5, 2, 0)), ((0, 1, 2), (0, 1 + (2 << 32), 0))],
)
def test_words_of_one_number_are_not_taken_for_another_number(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    first, second = (SampleNoise(seed, [index], stream).normal([(64,)])[0] for seed, index, stream in (one, other))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("triple", [(-1, 0, 0), (0, -1, 0), (0, 0, -(2**40))])
def test_negative_numbers_are_refused(triple: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        entropy_words(*triple)
