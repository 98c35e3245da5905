"""Noise by a counter-based generator: its bits, its distribution, and samples drawn with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DeviceNoiseSpace
from scipy import stats
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    BoxSpace,
    CounterNoise,
    Denoiser,
    ImageSpace,
    LinearSchedule,
    PointCloudSpace,
    SampleNoise,
    Sampler,
    Space,
)
from tag_lightning.diffusion.counter_noise import Philox4x32, box_muller
from tag_lightning.guidance import Corruption

words = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 0xFFFF, 0x10000, 2**31, 2**32 - 1]))
indices = st.lists(st.integers(0, 2**40), min_size=1, max_size=5)


def slow_philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 as its paper writes it, on Python's unbounded integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second % 2**32, (first >> 32) ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def slow_words(seed: int, stream: int, index: int, draw: int, block: int) -> list[int]:
    key = np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(2, np.uint32)
    return slow_philox([block, draw, index % 2**32, index >> 32], [int(word) for word in key])


def slow_normals(seed: int, stream: int, index: int, draw: int, count: int) -> list[float]:
    found: list[float] = []
    for block in range(math.ceil(count / 4)):
        four = slow_words(seed, stream, index, draw, block)
        for word, turn in (four[:2], four[2:]):
            radius, angle = math.sqrt(-2 * math.log((word + 0.5) / 2**32)), 2 * math.pi * turn / 2**32
            found += [radius * math.cos(angle), radius * math.sin(angle)]
    return found[:count]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: Sequence[int], key: Sequence[int], expected: Sequence[int]
) -> None:
    """The vectors of philox4x32 with 10 rounds in Random123's ``kat_vectors``."""
    assert Philox4x32(key)(torch.tensor(counter)).tolist() == list(expected)
    assert slow_philox(counter, key) == list(expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words, words, words, words), min_size=1, max_size=4), st.tuples(words, words))
def test_philox_is_that_of_unbounded_integers(counters: list[tuple[int, ...]], key: tuple[int, int]) -> None:
    expected = [slow_philox(counter, key) for counter in counters]
    assert Philox4x32(key)(torch.tensor(counters)).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**70), st.integers(0, 2**34), indices, st.integers(0, 3), st.integers(1, 9))
def test_noise_is_a_function_of_seed_stream_index_draw_and_position(
    seed: int, stream: int, which: list[int], draw: int, count: int
) -> None:
    source = CounterNoise(seed, which, stream)
    for _ in range(draw):
        source.batch((2,))
    expected = torch.tensor([slow_normals(seed, stream, index, draw, count) for index in which])
    torch.testing.assert_close(source.batch((count,)), expected, rtol=1e-5, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(indices, st.integers(1, 2**31), st.integers(0, 2))
def test_integers_are_the_upper_part_of_the_product(which: list[int], high: int, draw: int) -> None:
    source = CounterNoise(3, which, 5)
    for _ in range(draw):
        source.integers(7)
    fractions = [slow_words(3, 5, index, draw, 0) for index in which]
    expected = [high * ((first << 32) + second) >> 64 for first, second, *_ in fractions]
    assert source.integers(high).tolist() == expected
    assert all(0 <= value < high for value in expected)


def test_integers_are_uniform() -> None:
    counts = CounterNoise(0, range(7000)).integers(7).bincount()
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_extreme_words_give_finite_normals() -> None:
    edges = [0, 1, 2**24, 2**31, 2**32 - 1]
    normals = box_muller(torch.tensor(list(itertools.product(edges, repeat=4))))
    assert normals.dtype == torch.float32
    assert bool(normals.isfinite().all())
    assert float(normals.abs().max()) == pytest.approx(math.sqrt(66 * math.log(2)), rel=1e-6)  # the radius of word 0


def test_noise_is_standard_normal() -> None:
    noise = CounterNoise(0, range(400)).batch((500,)).double().flatten()
    count, moments = len(noise), [0, 1, 0, 3, 0, 15]
    for power, (moment, double) in enumerate(zip(moments, [1, 3, 15, 105, 945, 10395], strict=True), 1):
        deviation = math.sqrt((double - moment**2) / count)
        assert abs(float(noise.pow(power).mean()) - moment) < 3.5 * deviation, power
    assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01


def test_neighbours_are_independent() -> None:
    """Seeds, streams, indices, draws and positions next to each other, by the correlation of values and of squares."""
    rows = []
    for seed, stream in itertools.product((0, 1), (0, 1)):
        source = CounterNoise(seed, (0, 1, 2**32), stream)
        rows += [*source.batch((4096,)), *source.batch((4096,))]
    shifted = [rows[0].roll(by) for by in (1, 2, 3, 4)]
    values = torch.stack([*rows, *shifted])
    for seen in (values, values.square()):
        correlations = torch.corrcoef(seen) - torch.eye(len(values))
        assert correlations.abs().max() < 4.5 / math.sqrt(4096)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(7)), st.integers(1, 6))
def test_noise_is_bitwise_the_same_on_every_chunking(order: list[int], cut: int) -> None:
    def draws(which: Sequence[int]) -> Tensor:
        source = CounterNoise(7, which, 1)
        return torch.stack([source.batch((3, 5)), source.batch((3, 5))], 1)

    whole, parts = draws(range(7)), torch.cat([draws(order[:cut]), draws(order[cut:])])
    assert torch.equal(parts, whole[order])


def test_shapes_of_others_and_padding_change_nothing() -> None:
    mixed = CounterNoise(0, [4, 5]).normal([(3, 2), (9, 2)])
    padded = CounterNoise(0, [4, 5]).batch((12, 2), [3, 9])
    assert [tuple(row.shape) for row in mixed] == [(3, 2), (9, 2)]
    assert torch.equal(mixed[0], padded[0, :3])
    assert torch.equal(mixed[1], padded[1, :9])
    assert torch.equal(mixed[1], CounterNoise(0, [5]).normal([(9, 2)])[0])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 3))
def test_a_molecule_has_the_same_noise_in_every_batch(sizes: list[int], extra: int) -> None:
    def clouds(of: list[int], which: list[int], width: int | None = None) -> Tensor:
        space = PointCloudSpace(of, 2, which, dtype=torch.float64, width=width)
        source = CounterNoise(3, which)
        space.noise(source)
        noise = space.noise(source)
        assert bool(noise[~space.mask].eq(0).all())
        return noise

    together = clouds(sizes, list(range(len(sizes))), max(sizes) + extra)
    for i, size in enumerate(sizes):
        torch.testing.assert_close(together[i, :size], clouds([size], [i])[0], rtol=0, atol=1e-15)


def test_the_noise_of_the_cpu_stays_as_it_is() -> None:
    """All figures of the documentation rest on these bits."""

    def generator(index: int) -> np.random.Generator:
        key = np.random.SeedSequence((7, 2, index)).generate_state(2, np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    box, cloud = BoxSpace((2, 3), [4, 9]), PointCloudSpace([2, 3], 1, [4, 9], width=4)
    source = box.noise_source(7, 2)
    assert type(source) is SampleNoise
    generators = [generator(4), generator(9)]
    for _ in range(2):
        expected = np.stack([one.standard_normal((2, 3), dtype=np.float32) for one in generators])
        assert np.array_equal(box.noise(source).numpy(), expected)
    assert source.integers(50).tolist() == [one.integers(50) for one in generators]
    drawn = torch.zeros(2, 4, 4)
    for row, size, one in zip(drawn, cloud.sizes, (generator(4), generator(9)), strict=True):
        row[:size] = torch.from_numpy(one.standard_normal((size, 4), dtype=np.float32))
    assert torch.equal(cloud.noise(cloud.noise_source(7, 2)), cloud.project(drawn))


@pytest.mark.parametrize(
    "space",
    [ImageSpace((1, 4, 4), range(3), "meta"), PointCloudSpace([2, 3], 2, range(2), "meta")],
    ids=["images", "point clouds"],
)
def test_samples_on_a_device_have_their_noise_drawn_there(space: Space) -> None:
    """Tensors on ``meta`` have no values, so that a draw that reads one on the host fails."""
    source = space.noise_source(0, 1)
    assert type(source) is CounterNoise
    noise = space.noise(source)
    assert noise.device.type == "meta"
    assert noise.shape[0] == len(space.indices)
    assert source.integers(3).device.type == "meta"


class SmallNetwork(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return 0.5 * x + 0.01 * timesteps[:, None, None, None]


def test_samples_with_device_noise_do_not_depend_on_their_chunks() -> None:
    sampler = Sampler(
        Denoiser(SmallNetwork(), LinearSchedule(20), "epsilon"), DDIM(), 5, [Corruption(0.1)], recurrence=2
    )
    whole = sampler.sample(DeviceNoiseSpace((1, 2, 2), range(8)), 0)
    parts = [sampler.sample(DeviceNoiseSpace((1, 2, 2), part), 0) for part in (range(3), [3, 4, 5], [6, 7])]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, sampler.sample(ImageSpace((1, 2, 2), range(8)), 0))
