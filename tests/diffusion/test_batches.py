"""A sample depends on the seed and on its own index, on nothing else."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, ImageSpace, LinearSchedule, SampleNoise, Sampler, Step
from tag_lightning.guidance import Corruption, TemporalAlignment
from tag_lightning.networks import SimpleCNN

SHAPE = (2, 8, 8)


class SmallNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.layers(x) + 0.01 * timesteps[:, None, None, None]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser(SmallNetwork(), LinearSchedule(100), "epsilon")


@pytest.fixture(scope="module")
def alignment() -> TemporalAlignment:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TemporalAlignment(SimpleCNN(8, 2, 100, widths=(8, 8)), strength=3.0)


def draw(denoiser: Denoiser, indices: Sequence[int], *guidance: Guidance, seed: int = 0) -> Tensor:
    return Sampler(denoiser, DDIM(), 10, guidance).sample(ImageSpace(SHAPE, indices), seed)


@pytest.mark.parametrize("stream", [0, 1])
def test_noise_is_bitwise_the_same_in_every_batch(stream: int) -> None:
    whole = SampleNoise(7, range(8), stream).normal([SHAPE] * 8)
    first = SampleNoise(7, range(3), stream).normal([SHAPE] * 3)
    rest = SampleNoise(7, [7, 6, 5, 4, 3], stream).normal([SHAPE] * 5)
    assert torch.equal(torch.stack(whole), torch.stack([*first, *reversed(rest)]))


def test_noise_of_one_sample_does_not_depend_on_the_shape_of_others() -> None:
    """Molecules of a batch differ in size."""
    mixed = SampleNoise(0, [4, 5], 0).normal([(3, 2), (9, 2)])
    again = SampleNoise(0, [5], 0).normal([(9, 2)])
    assert torch.equal(mixed[1], again[0])


def test_seeds_indices_and_streams_give_different_standard_normal_noise() -> None:
    draws = torch.stack(
        [
            SampleNoise(seed, [index], stream).normal([(4096,)])[0]
            for seed in (0, 1)
            for index in (0, 1)
            for stream in (0, 1)
        ]
    )
    correlations = torch.corrcoef(draws) - torch.eye(8)
    assert correlations.abs().max() < 0.08
    assert draws.mean().abs() < 0.03
    assert abs(draws.std() - 1) < 0.03


def test_noise_goes_on_within_a_sample() -> None:
    source = SampleNoise(0, [0])
    first, second = source.normal([(64,)])[0], source.normal([(64,)])[0]
    assert not torch.equal(first, second)


def test_samples_do_not_depend_on_how_they_are_batched(denoiser: Denoiser, alignment: TemporalAlignment) -> None:
    whole = draw(denoiser, range(8), Corruption(0.1), alignment)
    split = torch.cat([draw(denoiser, part, Corruption(0.1), alignment) for part in (range(3), range(3, 8))])
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-5)


def test_samples_do_not_depend_on_their_order(denoiser: Denoiser, alignment: TemporalAlignment) -> None:
    order = [5, 0, 7, 2]
    whole = draw(denoiser, range(8), Corruption(0.1), alignment)
    torch.testing.assert_close(draw(denoiser, order, Corruption(0.1), alignment), whole[order], rtol=1e-4, atol=1e-5)


def test_samples_of_one_batch_are_reproducible_to_the_bit(denoiser: Denoiser, alignment: TemporalAlignment) -> None:
    assert torch.equal(draw(denoiser, range(4), alignment), draw(denoiser, range(4), alignment))


def test_sampling_leaves_the_global_generator_alone(denoiser: Denoiser) -> None:
    before = torch.random.get_rng_state()
    draw(denoiser, range(2), Corruption(0.1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeds_matter(denoiser: Denoiser) -> None:
    assert (draw(denoiser, range(4), seed=0) - draw(denoiser, range(4), seed=1)).abs().mean() > 0.1


def test_arms_start_from_the_same_noise_and_share_the_solvers(denoiser: Denoiser) -> None:
    """Noise that a guidance draws comes from another stream, so it leaves the solver's as it was."""
    assert torch.equal(draw(denoiser, range(4), Corruption(0.0)), draw(denoiser, range(4)))


def test_noise_of_guidance_is_not_that_of_the_solver(denoiser: Denoiser) -> None:
    """One stream for both would hand a corruption the very noise that the samples start from."""
    drawn: list[Tensor] = []

    class Draw(Guidance):
        def correct(self, x: Tensor, step: Step, predict: object) -> Tensor:
            if step.index == 0:
                drawn.extend([x.flatten(), step.noise().flatten()])
            return x

    draw(denoiser, range(32), Draw())
    assert abs(torch.corrcoef(torch.stack(drawn))[0, 1]) < 0.1


def test_the_first_sample_of_every_arm_is_the_same(denoiser: Denoiser, alignment: TemporalAlignment) -> None:
    starts: list[Tensor] = []

    class Watch(Guidance):
        def correct(self, x: Tensor, step: Step, predict: object) -> Tensor:
            if step.index == 0:
                starts.append(x.clone())
            return x

    draw(denoiser, range(4), Watch())
    draw(denoiser, range(4), Watch(), Corruption(0.2), alignment)
    assert torch.equal(starts[0], starts[1])
