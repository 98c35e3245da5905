import math

import pytest
import torch
from problems import UNEVEN, ScriptedSpace, exact_denoiser, proposed, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, LinearSchedule, Sampler
from tag_lightning.guidance import Corruption, Drift, Quantisation

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)


class Third(nn.Module):
    """Predicts a third of what it sees as noise."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return x / 3


def test_corruption_adds_noise_of_its_sigma() -> None:
    step = step_at(SCHEDULE, vector_space(range(200), dim=50), 50, 40)
    x = random_vectors(200, 50)
    added = Corruption(0.3).correct(x, step, exact_denoiser(UNEVEN, SCHEDULE)) - x
    assert float(added.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(added.mean())) < 0.01


def test_corruption_happens_before_every_denoising() -> None:
    """With one script for all noise, by hand."""
    script, denoiser = random_vectors(5, 4, 2), exact_denoiser(UNEVEN, SCHEDULE)
    measured = Sampler(denoiser, DDIM(), 2, [Corruption(0.3)]).sample(ScriptedSpace(script), 0)
    first = step_at(SCHEDULE, vector_space(range(4)), 99, 49)
    transition = proposed(DDIM(), denoiser(script[0] + 0.3 * script[1], 99), first)
    x = transition.mean + transition.std * script[2]
    torch.testing.assert_close(measured, denoiser(x + 0.3 * script[3], 49).x0)


def test_every_step_is_corrupted_afresh() -> None:
    step = step_at(SCHEDULE, vector_space(range(4)), 50, 40)
    x = torch.zeros(4, 2, dtype=torch.float64)
    predict = exact_denoiser(UNEVEN, SCHEDULE)
    corruption = Corruption(0.1)
    assert not torch.equal(corruption.correct(x, step, predict), corruption.correct(x, step, predict))


def test_drift_scales_the_result_of_every_step() -> None:
    script, denoiser = random_vectors(2, 4, 2), exact_denoiser(UNEVEN, SCHEDULE)
    measured = Sampler(denoiser, DDIM(), 2, [Drift(-0.1)]).sample(ScriptedSpace(script), 0)
    transition = proposed(DDIM(), denoiser(script[0], 99), step_at(SCHEDULE, vector_space(range(4)), 99, 49))
    x = 0.9 * (transition.mean + transition.std * script[1])
    torch.testing.assert_close(measured, 0.9 * denoiser(x, 49).x0)


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_impossible_corruptions_are_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be a finite number of at least 0"):
        Corruption(sigma)


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_impossible_drifts_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be finite"):
        Drift(rate)


WIDTHS = {1: 1.5958, 2: 0.9957, 5: 0.1881}


@pytest.mark.parametrize("bits", WIDTHS)
def test_quantised_noise_has_so_many_levels_and_the_clean_sample_follows(bits: int) -> None:
    step = step_at(SCHEDULE, vector_space(range(300), dim=40), 50, 40)
    x, denoiser = 2 * random_vectors(300, 40), Denoiser(Third(), SCHEDULE, "epsilon")
    plain, rounded = denoiser(x, 50), Quantisation(bits).denoise(x, step, denoiser)
    width = WIDTHS[bits]
    levels = (torch.arange(2**bits, dtype=torch.float64) + 0.5 - 2 ** (bits - 1)) * width
    nearest = (plain.epsilon[..., None] - levels).abs().argmin(-1)
    torch.testing.assert_close(rounded.epsilon, levels[nearest])
    made = step.alpha_bar**0.5 * rounded.x0 + (1 - step.alpha_bar) ** 0.5 * rounded.epsilon
    torch.testing.assert_close(made, x)


@pytest.mark.parametrize("bits", range(1, 9))
def test_no_rescaling_brings_quantised_white_noise_closer(bits: int) -> None:
    """A quantiser of least error has an error uncorrelated with its answer."""
    step = step_at(SCHEDULE, vector_space(range(2000), dim=100), 50, 40)
    x, denoiser = 3 * random_vectors(2000, 100), Denoiser(Third(), SCHEDULE, "epsilon")
    rounded = Quantisation(bits).denoise(x, step, denoiser).epsilon
    best = float((rounded * x / 3).sum() / rounded.square().sum())
    assert best == pytest.approx(1, abs=0.005)


def test_gradients_pass_the_rounding() -> None:
    step = step_at(SCHEDULE, vector_space(range(3), dim=5), 50, 40)
    x = random_vectors(3, 5).requires_grad_(True)
    denoiser = Denoiser(Third(), SCHEDULE, "epsilon")
    (plain,) = torch.autograd.grad(denoiser(x, 50).x0.sum(), x)
    (rounded,) = torch.autograd.grad(Quantisation(2).denoise(x, step, denoiser).x0.sum(), x)
    torch.testing.assert_close(rounded, plain)


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be 1 to 8, got {bits}"):
        Quantisation(bits)
