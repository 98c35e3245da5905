"""Centred, masked point clouds: the space, and the reverse loop in it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    Guidance,
    PointCloudSpace,
    PolynomialSchedule,
    Predict,
    Prediction,
    Proposal,
    SampleNoise,
    Sampler,
    Step,
    centred,
)
from tag_lightning.guidance import DPS, Condition, SquaredError, TemporalAlignment
from tag_lightning.networks import EGNNDenoiser, EGNNPropertyPredictor, EGNNTimePredictor

FEATURES, TIMESTEPS = 2, 20
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def space(
    of: list[int], width: int | None = None, first: int = 0, dtype: torch.dtype = torch.float64
) -> PointCloudSpace:
    return PointCloudSpace(of, FEATURES, range(first, first + len(of)), dtype=dtype, width=width)


def inside(x: Tensor, mask: Tensor, atol: float = 1e-12) -> bool:
    return bool(x[~mask].eq(0).all()) and float(x[..., :3].sum(1).abs().max()) < atol


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 3), st.integers(0, 999))
def test_projection_is_orthogonal(of: list[int], extra: int, seed: int) -> None:
    where = space(of, max(of) + extra)
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, len(of), where.width, 3 + FEATURES, dtype=torch.float64, generator=generator)
    p = where.project(a)
    assert inside(p, where.mask)
    torch.testing.assert_close(where.project(p), p)
    torch.testing.assert_close((p * b).sum(), (a * where.project(b)).sum())


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 3))
def test_noise_of_a_sample_is_its_own(of: list[int], extra: int) -> None:
    together = space(of, max(of) + extra).noise(SampleNoise(3, range(len(of))))
    for i, size in enumerate(of):
        alone = space([size], first=i).noise(SampleNoise(3, [i]))
        torch.testing.assert_close(together[i, :size], alone[0], rtol=0, atol=0)


def test_noise_is_standard_normal_in_as_many_dimensions_as_there_are() -> None:
    where = space([5] * 4000)
    noise = where.noise(SampleNoise(0, range(4000)))
    assert inside(noise, where.mask, 1e-6)
    dimensions = where.degrees_of_freedom
    assert dimensions.unique().tolist() == [3 * 4 + FEATURES * 5]
    # A chi-square of 22 degrees of freedom has variance 44; the mean of 4,000 is within 4.5 of its deviations.
    assert abs(float(noise.square().sum((1, 2)).mean() - dimensions[0])) < 4.5 * (44 / 4000) ** 0.5
    variance = noise[..., :3].square().mean()
    assert float(variance) == pytest.approx(1 - 1 / 5, abs=0.01)


def test_nan_in_padding_does_not_spread() -> None:
    x = torch.full((1, 4, 5), torch.nan)
    x[0, :2] = torch.tensor([[1.0, 0, 0, 2, 3], [3.0, 0, 0, 4, 5]])
    mask = torch.tensor([[True, True, False, False]])
    expected = torch.tensor([[-1.0, 0, 0, 2, 3], [1.0, 0, 0, 4, 5], [0] * 5, [0] * 5])
    torch.testing.assert_close(centred(x, mask)[0], expected)


@pytest.mark.parametrize("of", [[0], [3, 9]])
def test_impossible_sizes_are_refused(of: list[int]) -> None:
    with pytest.raises(ValueError, match=r"sizes in 1 \.\. 8"):
        PointCloudSpace(of, FEATURES, range(len(of)), width=8)


class Pull(Guidance):
    """Adds what no centred, masked cloud has, wherever a guidance may."""

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return x + 0.1

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        return proposal.moved(torch.arange(x.shape[1], dtype=x.dtype)[:, None] + 1)


def networks() -> tuple[Denoiser, nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = EGNNDenoiser(FEATURES, TIMESTEPS, width=8, num_blocks=2, longest=1.0)
        predictor = EGNNTimePredictor(FEATURES, TIMESTEPS, width=8, num_layers=1)
        guide = EGNNPropertyPredictor(("alpha",), FEATURES, width=8, num_layers=1)
    for network in (denoiser, predictor, guide):
        network.double().eval().requires_grad_(False)
    predictor.typical_nll.fill_(1.0)
    return Denoiser(denoiser, PolynomialSchedule(TIMESTEPS), "epsilon"), predictor, guide


DENOISER, PREDICTOR, GUIDE = networks()


def guidance(count: int) -> list[list[Guidance]]:
    condition = Condition(GUIDE, torch.zeros(count, 1), SquaredError(1.0))
    return [[], [Pull()], [TemporalAlignment(PREDICTOR)], [TemporalAlignment(PREDICTOR, 0.1), DPS(condition, 0.5)]]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("recurrence", [1, 2])
def test_every_state_is_centred_and_masked(kind: int, recurrence: int) -> None:
    where = space([3, 6, 1], 7)
    seen: list[bool] = []
    sampler = Sampler(DENOISER, DDIM(), 10, guidance(3)[kind], recurrence)
    x = sampler.sample(where, 0, [lambda x, step: seen.append(inside(x, where.mask, 1e-9))])
    assert len(seen) == 10 * recurrence
    assert all(seen)
    assert inside(x, where.mask, 1e-9)
    assert bool(x.isfinite().all())


@pytest.mark.parametrize("kind", range(4))
def test_a_sample_does_not_depend_on_padding_or_batch(kind: int) -> None:
    together = Sampler(DENOISER, DDIM(), 8, guidance(3)[kind]).sample(space([3, 6, 4], 9), 5)
    for i, size in enumerate([3, 6, 4]):
        if kind == 1 and size < 6:
            continue  # this one adds something else to every place
        alone = Sampler(DENOISER, DDIM(), 8, guidance(1)[kind]).sample(space([size], first=i), 5)
        torch.testing.assert_close(together[i : i + 1, :size], alone, rtol=0, atol=1e-8)


class Silent(nn.Module):
    """The exact denoiser of standard normal data, which is standard normal at every timestep."""

    def __init__(self, schedule: PolynomialSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        return self.schedule.signal_and_noise(x, timesteps)[1] * x


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_standard_normal_clouds_stay_standard_normal(eta: float) -> None:
    schedule = PolynomialSchedule(200)
    where = space([4] * 3000)
    x = Sampler(Denoiser(Silent(schedule), schedule, "epsilon"), DDIM(eta), 200).sample(where, 0)
    expected = float(where.degrees_of_freedom[0])
    assert float(x.square().sum((1, 2)).mean()) == pytest.approx(expected, rel=0.03)
    assert inside(x, where.mask, 1e-6)
