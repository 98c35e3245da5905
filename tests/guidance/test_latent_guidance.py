"""Guidance in a latent space: with a linear decoder it is guidance by the composed guide, to rounding."""

from __future__ import annotations

import pytest
import torch
from gaussian_mixture import ExactTimePosterior
from problems import TOY, UNEVEN, exact_denoiser, half_square, random_vectors, toy_schedule, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Autoencoder,
    Guidance,
    LatentSpace,
    Prediction,
    Run,
    SampleNoise,
    Sampler,
    Step,
)
from tag_lightning.evaluation.candidates import Likeliest
from tag_lightning.guidance import (
    DPS,
    DSG,
    GFCG,
    LGD,
    MPGD,
    TFG,
    UGD,
    Condition,
    ConditionEvaluator,
    DiscriminatorEvaluator,
    FixedLengthSteps,
    JointCondition,
    REDDiff,
    TangentialGuidance,
    TemporalAlignment,
)
from tag_lightning.guidance.conditions import cross_entropy

COUNT = 3
DECODER = random_vectors(2, 5)
GUIDE = random_vectors(5, 4, seed=1)
TARGET = random_vectors(COUNT, 4, seed=2)
METHODS = [
    [DPS(scale=0.1)],
    [LGD(scale=0.1)],
    [MPGD(scale=0.2)],
    [UGD(scale=0.1)],
    [TFG(rho=0.1, mu=0.1, gamma=0.2, num_draws=2)],
    [DSG()],
    [FixedLengthSteps(DPS())],
    [REDDiff()],
    [TangentialGuidance(), DPS(scale=0.1)],
    [TemporalAlignment(ExactTimePosterior(UNEVEN, toy_schedule()), 0.1, conditions=[DPS(scale=0.1)]), DPS(scale=0.1)],
]


class Linear(nn.Module):
    """``x W`` in float64."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def latent_space() -> LatentSpace:
    return LatentSpace((2,), Linear(DECODER), range(COUNT), dtype=torch.float64, image_range=None)


def with_condition(methods: list[Guidance], condition: Condition) -> list[Guidance]:
    return [method.for_run(Run(conditions={"y": condition})) for method in methods]


@pytest.mark.parametrize("methods", METHODS, ids=lambda methods: "+".join(type(m).__name__ for m in methods))
def test_guidance_of_latents_is_guidance_by_the_composed_guide(methods: list[Guidance]) -> None:
    denoiser = exact_denoiser(UNEVEN, toy_schedule())
    pixels = Condition(Linear(GUIDE), TARGET, half_square)
    composed = Condition(Linear(DECODER @ GUIDE), TARGET, half_square)
    drawn = [
        Sampler(denoiser, DDIM(1.0), 12, with_condition(methods, condition)).sample(space, 0)
        for condition, space in ((pixels, latent_space()), (composed, vector_space(range(COUNT))))
    ]
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-10, rtol=1e-10)
    plain = Sampler(denoiser, DDIM(1.0), 12).sample(latent_space(), 0)
    assert not torch.allclose(drawn[0], plain, atol=1e-3)


def test_evaluators_and_classifiers_see_the_decoded_sample() -> None:
    space, latents = latent_space(), random_vectors(COUNT, 2, seed=3)
    step = Step(0, 5, None, 0.5, 1.0, 10, (), space, SampleNoise(0, range(COUNT)))
    candidate = Prediction(torch.zeros_like(latents), latents)
    images = latents @ DECODER
    likelihood = Condition(Linear(GUIDE), TARGET, half_square)
    assert torch.equal(ConditionEvaluator(likelihood).scores(candidate, step), likelihood.log_likelihood(images))
    realness = DiscriminatorEvaluator(Linear(GUIDE[:, :1])).scores(candidate, step)
    torch.testing.assert_close(realness, (images @ GUIDE[:, :1])[:, 0])
    classes = torch.tensor([0, 1, 2])
    guidance = GFCG(Condition(Linear(GUIDE), classes, cross_entropy), guidance_scale=3.0)
    scale, mistaken = guidance.reading(candidate, classes, step)
    posterior = (images @ GUIDE).softmax(1)
    torch.testing.assert_close(scale, 1 + 2 * (1 - posterior[range(COUNT), classes]))
    assert torch.equal(mistaken, posterior.scatter(1, classes[:, None], 0.0).argmax(1))


def test_several_conditions_see_the_decoded_sample() -> None:
    conditions = [Condition(Linear(GUIDE[:, [k]]), TARGET[:, [k]], half_square) for k in range(4)]
    both = DPS(JointCondition(conditions), scale=0.1)
    one = DPS(Condition(Linear(GUIDE), TARGET, half_square), scale=0.1)
    denoiser = exact_denoiser(UNEVEN, toy_schedule())
    drawn = [Sampler(denoiser, DDIM(), 5, [method]).sample(latent_space(), 0) for method in (both, one)]
    torch.testing.assert_close(*drawn, atol=1e-10, rtol=1e-10)


def test_candidates_are_judged_as_they_are_finished() -> None:
    space = latent_space()
    best = Likeliest({"y": Condition(Linear(GUIDE), TARGET, half_square)}, space)
    latents = random_vectors(COUNT, 2, seed=3)
    assert torch.equal(best.add({"x": space.finished(latents)})["x"], latents @ DECODER)


def test_the_time_predictor_sees_latents() -> None:
    """TAG in a latent space is TAG in the same space without a decoder."""
    tag = TemporalAlignment(ExactTimePosterior(UNEVEN, toy_schedule()), 0.1)
    sampler = Sampler(exact_denoiser(UNEVEN, toy_schedule()), DDIM(), 10, [tag])
    assert torch.equal(sampler.sample(latent_space(), 0), sampler.sample(vector_space(range(COUNT)), 0))


def test_latents_are_not_clipped_and_finished_images_are() -> None:
    """Samples of this mixture reach far beyond the range of images."""
    sampler = Sampler(exact_denoiser(TOY, toy_schedule()), DDIM(), 10)
    space = LatentSpace((2,), lambda z: z / 5, range(8), dtype=torch.float64)
    x = sampler.sample(space, 0)
    assert float(x.abs().min()) > 5
    assert torch.equal(space.decode(x), x / 5)
    assert torch.equal(space.finished(x), (x / 5).clamp(-1, 1))


def test_a_space_of_latents_needs_a_decoder_of_theirs() -> None:
    with pytest.raises(ValueError, match="LatentSpace needs a decoder from latents to images, got None"):
        LatentSpace((4, 2, 2), None, range(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Linear is not an autoencoder: it has no encode and decode"):
        Autoencoder(Linear(GUIDE))
