"""MoreRed's adaptive samplers against their reverse step in plain lines, sample by sample."""

import math
from collections.abc import Sequence
from types import MappingProxyType

import pytest
import torch
from gaussian_mixture import ExactTimePosterior, GaussianMixture
from problems import UNEVEN, ScriptedSpace, exact_denoiser, half_square, random_vectors, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, LinearSchedule, Predict, Run, SampleNoise, Sampler, Step
from tag_lightning.diffusion.denoiser import NULL_TIMESTEP_KEY
from tag_lightning.guidance import DPS, Condition, MoreRedAS, MoreRedITP, MoreRedJT, TemporalAlignment

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)


class Scripted(nn.Module):
    """A time predictor that is sure of the timesteps written down for each call and sample."""

    def __init__(self, script: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.script = list(script)

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * nn.functional.one_hot(torch.tensor(self.script.pop(0)), 100).to(x)


def ancestral(x: Tensor, t: int, reached: int, noise: Tensor) -> Tensor:
    """One sample ``[D]`` by the posterior ``q(x_reached | x_t, x0)`` of DDPM (arXiv 2006.11239, Eq. 7)."""
    a = float(SCHEDULE.alphas_cumprod[t])
    b = float(SCHEDULE.alphas_cumprod[reached]) if reached >= 0 else 1.0
    beta = 1 - a / b
    x0 = DENOISER(x[None], t).x0[0]
    mean = math.sqrt(b) * beta / (1 - a) * x0 + math.sqrt(1 - beta) * (1 - b) / (1 - a) * x
    return mean + math.sqrt((1 - b) / (1 - a) * beta) * noise


def by_the_book(script: Tensor, timesteps: Sequence[Sequence[int]], stride: int) -> Tensor:
    noises = list(script)
    rows = list(noises.pop(0))
    arrived = [False] * len(rows)
    for call, found in enumerate(timesteps):
        noise, last = noises.pop(0), call == len(timesteps) - 1
        for i, t in enumerate(found):
            if not arrived[i]:
                reached = -1 if last else t - stride
                rows[i] = ancestral(rows[i], t, reached, noise[i])
                arrived[i] = reached < 0
    return torch.stack(rows)


FOUND = [[99, 90, 70], [85, 85, 10], [60, 88, 99], [40, 7, 50], [33, 30, 2]]


def test_samples_step_from_the_timesteps_that_are_found() -> None:
    script = random_vectors(6, 3, 2, seed=4)
    guidance = MoreRedAS(Scripted(FOUND))
    ours = Sampler(DENOISER, DDIM(0.0), 5, [guidance]).sample(ScriptedSpace(script), 0)
    torch.testing.assert_close(ours, by_the_book(script, FOUND, 20), rtol=1e-9, atol=1e-9)


def test_one_prediction_is_counted_down() -> None:
    script = random_vectors(6, 3, 2, seed=4)
    guidance = MoreRedITP(Scripted(FOUND[:1]))  # a second call would find the script empty
    ours = Sampler(DENOISER, DDIM(0.0), 5, [guidance]).sample(ScriptedSpace(script), 0)
    counted = [[max(0, t - 20 * k) for t in FOUND[0]] for k in range(5)]
    torch.testing.assert_close(ours, by_the_book(script, counted, 20), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [MoreRedAS, MoreRedITP])
def test_samples_at_their_own_timesteps_take_the_steps_of_ddpm(kind: type[MoreRedAS]) -> None:
    script, schedule = random_vectors(6, 3, 2, seed=4), [[t] * 3 for t in (99, 79, 59, 39, 19)]
    guided = Sampler(DENOISER, DDIM(0.0), 5, [kind(Scripted(schedule))]).sample(ScriptedSpace(script), 0)
    plain = Sampler(DENOISER, DDIM(1.0), 5).sample(ScriptedSpace(script), 0)
    torch.testing.assert_close(guided, plain, rtol=1e-9, atol=1e-9)


def test_a_denoiser_that_is_not_told_the_timestep_takes_the_same_steps_if_it_needs_none() -> None:
    class Untold(nn.Module):
        """The noise at the timesteps written down for each call, whichever timestep it is told."""

        config = MappingProxyType({NULL_TIMESTEP_KEY: True})
        script = iter(FOUND)

        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            assert (timesteps == SCHEDULE.null_timestep).all()
            return DENOISER.network(x, torch.tensor(next(self.script)))

    script = random_vectors(6, 3, 2, seed=4)
    sampler = Sampler(Denoiser(Untold(), SCHEDULE, "epsilon"), DDIM(0.0), 5, [MoreRedJT(Scripted(FOUND))])
    ours = sampler.sample(ScriptedSpace(script), 0)
    torch.testing.assert_close(ours, by_the_book(script, FOUND, 20), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"^MoreRedJT needs .*timestep_dropout 0\.1$"):
        Sampler(DENOISER, DDIM(0.0), 5, [MoreRedJT(Scripted(FOUND))])


def test_an_exact_posterior_finds_the_level_of_each_sample_and_ends_early_where_it_is_low() -> None:
    """64 dimensions tell their noise level: samples that start at half of it step from there."""
    narrow = GaussianMixture([1], [[0.0] * 64], [0.01])
    found: list[Tensor] = []

    class Halved(Guidance):
        def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
            return 0.5 * x if step.index == 0 else x

    class Noted(MoreRedAS):
        def timesteps(self, x: Tensor, step: Step) -> Tensor:
            found.append(super().timesteps(x, step))
            return found[-1]

    guidance = [Halved(), Noted(ExactTimePosterior(narrow, SCHEDULE))]
    samples = Sampler(exact_denoiser(narrow, SCHEDULE), DDIM(0.0), 100, guidance).sample(vector_space(range(8), 64), 0)
    a = SCHEDULE.alphas_cumprod[found[0]]
    start = vector_space(range(8), 64).noise(SampleNoise(0, range(8)))
    torch.testing.assert_close((0.01 * a + 1 - a).sqrt(), 0.5 * start.square().mean(1).sqrt(), rtol=0.05, atol=0)
    assert found[0].max() < 60
    assert samples.square().mean(1).sqrt().sub(0.1).abs().max() < 0.03


def test_the_denoiser_is_called_once_a_step() -> None:
    calls: list[Tensor] = []

    class Noted(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            calls.append(timesteps)
            return DENOISER.network(x, timesteps)

    Sampler(Denoiser(Noted(), SCHEDULE, "epsilon"), DDIM(), 5, [MoreRedAS(Scripted(FOUND))]).sample(
        vector_space(range(3)), 0
    )
    assert [found.tolist() for found in calls] == FOUND


def test_the_predictor_comes_with_the_run_and_fits_the_schedule() -> None:
    ready = MoreRedAS().for_run(Run(predictor=nn.Linear(2, 12, dtype=torch.float64)))
    with pytest.raises(ValueError, match="knows 12 timesteps but the denoiser has 100; it must be trained with"):
        Sampler(DENOISER, DDIM(), 5, [ready]).sample(vector_space(range(3)), 0)
    with pytest.raises(ValueError, match="MoreRedITP has no predictor"):
        MoreRedITP().for_run(Run())


def test_guidance_and_alignment_run_beside_it() -> None:
    posterior = ExactTimePosterior(UNEVEN, SCHEDULE)
    dps = DPS(Condition(nn.Identity(), torch.ones(3, 2, dtype=torch.float64), half_square), 0.1)
    arms = [[], [dps], [TemporalAlignment(posterior, 0.05)]]
    drawn = [
        Sampler(DENOISER, DDIM(), 8, [MoreRedAS(posterior), *arm]).sample(vector_space(range(3)), 0) for arm in arms
    ]
    assert all(samples.isfinite().all() for samples in drawn)
    assert not torch.allclose(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
