"""Guidance by adapters: held to the contrast of two passes that it stands for, for Gaussians of two classes."""

from __future__ import annotations

import pytest
import torch
from perfect_adapters import SCHEDULE, PerfectAdapters, space
from problems import random_vectors, step_at
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, Prediction, Sampler
from tag_lightning.guidance import CFG, DPS, AdapterGuidance, Condition


def sampled(guidance: list[Guidance]) -> tuple[Tensor, int]:
    network = PerfectAdapters()
    return Sampler(Denoiser(network, SCHEDULE, "epsilon"), DDIM(), 12, guidance).sample(space(), 0), network.passes


@pytest.mark.parametrize("scale", [1.0, 2.5, 6.0])
def test_perfect_adapters_sample_as_the_contrast_does_in_half_the_passes(scale: float) -> None:
    guided, passes = sampled([CFG(scale)])
    distilled, own = sampled([AdapterGuidance(scale)])
    torch.testing.assert_close(distilled, guided)
    assert (passes, own) == (24, 12)


def test_outside_its_interval_the_adapters_are_off() -> None:
    torch.testing.assert_close(
        sampled([AdapterGuidance(3.0, start=60, stop=30)])[0],
        sampled([CFG(3.0, start=60, stop=30)])[0],
    )


def test_the_answer_without_the_condition_is_the_plain_one() -> None:
    """Another guidance may ask for it."""
    denoiser, x = Denoiser(PerfectAdapters(), SCHEDULE, "epsilon"), random_vectors(6, 2)
    step = step_at(SCHEDULE, space(conditional=False), 60, 50)

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        return denoiser(x, timestep, null_condition=True, **inputs)  # type: ignore[arg-type]

    answer = AdapterGuidance(3.0).denoise(x, step, predict)
    torch.testing.assert_close(answer.epsilon, denoiser(x, 60, null_condition=True).epsilon)


def test_a_gradient_method_beside_it_asks_for_the_plain_answer_as_well() -> None:
    condition = Condition(nn.Linear(2, 3).double().requires_grad_(False), torch.zeros(6, dtype=torch.long))
    assert sampled([AdapterGuidance(3.0), DPS(condition, 0.01)])[1] == 24


@pytest.mark.parametrize("scale", [0.5, 6.5])
def test_a_scale_outside_the_trained_range_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=rf"guidance_scale must lie in 1 \.\. 6, .* got {scale}; CFG"):
        sampled([AdapterGuidance(scale)])


def test_a_denoiser_without_adapters_is_refused() -> None:
    class Plain(PerfectAdapters):
        scale_range = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match=r"needs a denoiser with guidance adapters.*take digits/guidance_adapters"):
        Sampler(Denoiser(Plain(), SCHEDULE, "epsilon"), DDIM(), 4, [AdapterGuidance()])


def test_samples_that_are_asked_for_nothing_are_refused() -> None:
    sampler = Sampler(Denoiser(PerfectAdapters(), SCHEDULE, "epsilon"), DDIM(), 4, [AdapterGuidance()])
    with pytest.raises(ValueError, match="AdapterGuidance strengthens the condition of each sample, but the space has"):
        sampler.sample(space(conditional=False), 0)
