"""Tangential Amplifying Guidance against its algorithm in plain lines, and what the paper proves about it."""

import math

import pytest
import torch
from problems import UNEVEN, exact_denoiser, half_square, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    Guidance,
    LinearSchedule,
    PointCloudSpace,
    Predict,
    Prediction,
    SampleNoise,
    Sampler,
    Step,
)
from tag_lightning.guidance import DPS, Condition, TangentialGuidance

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)


def sampled(*guidance: Guidance, eta: float = 0.0, num_steps: int = 6) -> Tensor:
    return Sampler(DENOISER, DDIM(eta), num_steps, guidance).sample(vector_space(range(6)), 0)


def next_samples(scale: float, x: Tensor, eta: float = 0.0) -> Tensor:
    """The mean of the step from timestep 60 to 40."""
    step, prediction = step_at(SCHEDULE, vector_space(range(6)), 60, 40), DENOISER(x, 60)
    proposal = DDIM(eta).propose(x, prediction, step, DENOISER)
    guided = TangentialGuidance(scale).propose(proposal, x, prediction, step)
    assert torch.equal(guided.noise, proposal.noise)
    assert guided.std == proposal.std
    return guided.mean


def by_the_book(scale: float, num_steps: int) -> Tensor:
    """Algorithm 1 of arXiv 2510.04533 with projection matrices, one sample at a time."""
    x = vector_space(range(6)).noise(SampleNoise(0, range(6)))
    timesteps = [round(100 * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]
    bars = [float(SCHEDULE.alphas_cumprod[t]) for t in timesteps] + [1.0]
    for i, t in enumerate(timesteps):
        epsilon, a, b = DENOISER(x, t).epsilon, bars[i], bars[i + 1]
        proposed = math.sqrt(b / a) * x + (math.sqrt(1 - b) - math.sqrt(b / a) * math.sqrt(1 - a)) * epsilon
        rows = []
        for row, wanted in zip(x, proposed, strict=True):
            radial = torch.outer(row, row) / row.dot(row)
            tangential = torch.eye(2, dtype=x.dtype) - radial
            rows.append(row + radial @ (wanted - row) + scale * tangential @ (wanted - row))
        x = torch.stack(rows)
    return x


def test_it_is_its_algorithm() -> None:
    torch.testing.assert_close(sampled(TangentialGuidance(1.3)), by_the_book(1.3, 6), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sampled(TangentialGuidance(1.0)), sampled(), rtol=0, atol=0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_radial_part_of_the_step_stays_and_the_rest_grows(eta: float) -> None:
    x = random_vectors(6, 2)
    plain, guided = next_samples(1.0, x, eta) - x, next_samples(1.4, x, eta) - x
    torch.testing.assert_close((guided * x).sum(1), (plain * x).sum(1))
    across = torch.stack((-x[:, 1], x[:, 0]), 1)
    torch.testing.assert_close((guided * across).sum(1), 1.4 * (plain * across).sum(1))


def test_the_first_order_gain_in_likelihood_grows_with_the_scale() -> None:
    """Theorem 4.1, by the gap its proof gives: ``(scale - 1) |coefficient| |tangential epsilon|^2 / sigma``."""
    x, a, b = random_vectors(6, 2), *(float(SCHEDULE.alphas_cumprod[t]) for t in (60, 40))
    epsilon, sigma = DENOISER(x, 60).epsilon, math.sqrt(1 - a)
    gains = [(-(next_samples(scale, x) - x) * epsilon / sigma).sum(1) for scale in (1.0, 1.25)]
    coefficient = math.sqrt(1 - b) - math.sqrt(b / a) * sigma
    outward = x / x.norm(dim=1, keepdim=True)
    tangential = epsilon - (epsilon * outward).sum(1, keepdim=True) * outward
    torch.testing.assert_close(gains[1] - gains[0], -coefficient / sigma * 0.25 * tangential.square().sum(1))
    assert (gains[1] > gains[0]).all()


def test_clouds_stay_centred_and_their_sphere_ignores_the_padding() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
            return torch.tanh(x) * mask[..., None]

    def drawn(width: int) -> Tensor:
        space = PointCloudSpace([3, 5], 2, range(2), dtype=torch.float64, width=width)
        return Sampler(Denoiser(Half(), SCHEDULE, "epsilon"), DDIM(0.0), 5, [TangentialGuidance(1.5)]).sample(space, 0)

    narrow, wide = drawn(5), drawn(9)
    torch.testing.assert_close(wide[:, :5], narrow)
    assert narrow[..., :3].sum(1).abs().max() < 1e-12
    assert wide[:, 5:].abs().max() == narrow[0, 3:].abs().max() == 0


def test_it_amplifies_what_earlier_guidance_added() -> None:
    dps = DPS(Condition(nn.Identity(), random_vectors(6, 2, seed=3), half_square), 0.3)
    behind, ahead = sampled(dps, TangentialGuidance(1.3)), sampled(TangentialGuidance(1.3), dps)
    assert behind.isfinite().all()
    assert not torch.allclose(behind, ahead)


@pytest.mark.parametrize(("beside", "calls"), [([], 1), ([DPS(Condition(nn.Identity(), torch.zeros(6, 2)), 0.0)], 2)])
def test_a_prediction_that_no_proposal_reads_is_not_made_again(beside: list[Guidance], calls: int) -> None:
    """A guidance that predicts at other timesteps leaves the denoiser's own prediction open."""
    asked: list[Tensor] = []

    class Noted(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            asked.append(timesteps)
            return DENOISER.network(x, timesteps)

    class Elsewhere(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
            return predict(x, torch.full((len(x),), 12))

    guidance = [Elsewhere(), *beside, TangentialGuidance()]
    Sampler(Denoiser(Noted(), SCHEDULE, "epsilon"), DDIM(0.0), 1, guidance).sample(vector_space(range(6)), 0)
    assert len(asked) == calls


@pytest.mark.parametrize("scale", [0.9, math.inf, math.nan])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be a finite number of at least 1, got"):
        TangentialGuidance(scale)
