"""Rewards as conditions, in pixels and in latents."""

from __future__ import annotations

import pytest
import torch
from problems import UNEVEN, exact_denoiser, random_vectors, toy_schedule, vector_space
from torch import Tensor

from tag_lightning.diffusion import DDIM, LatentSpace, Sampler
from tag_lightning.guidance import DPS, EluCD, JointCondition, Reward

DIRECTION = random_vectors(3, seed=4)
DECODER = random_vectors(2, 3)


def linear(x: Tensor) -> Tensor:
    return x @ DIRECTION


def sample(condition: object, space: LatentSpace, eta: float = 0.0) -> Tensor:
    return Sampler(exact_denoiser(UNEVEN, toy_schedule()), DDIM(eta), 20, [DPS(condition, scale=1.0)]).sample(space, 0)


def latent_space() -> LatentSpace:
    return LatentSpace((2,), lambda z: z @ DECODER, range(40), dtype=torch.float64, image_range=None)


def test_the_log_likelihood_is_the_weighted_reward() -> None:
    x = random_vectors(5, 3)
    torch.testing.assert_close(Reward(linear, weight=0.3).log_likelihood(x), 0.3 * x @ DIRECTION)
    both = JointCondition([Reward(linear, 2.0), Reward(lambda x: x.square().sum(1), -1.0)])
    torch.testing.assert_close(both.log_likelihood(x), 2 * x @ DIRECTION - x.square().sum(1))


def test_in_latents_the_reward_sees_the_decoded_sample_and_grows() -> None:
    space = latent_space()
    guided = sample(Reward(linear, 0.5), space)
    composed = sample(Reward(lambda z: z @ DECODER @ DIRECTION, 0.5), vector_space(range(40)))
    torch.testing.assert_close(guided, composed, atol=1e-10, rtol=1e-10)
    drawn = [space.finished(sample(Reward(linear, weight), space)) for weight in (-0.5, 0, 0.5)]
    avoided, unguided, sought = (float(linear(x).mean()) for x in drawn)
    assert avoided + 0.1 < unguided < sought - 0.1


def test_what_is_not_a_reward_is_one_line() -> None:
    for weight in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be a finite number"):
            Reward(linear, weight)
    with pytest.raises(ValueError, match=r"the reward <lambda> returns \[40, 3\] for 40 samples, expected one number"):
        sample(Reward(lambda x: x), latent_space())
    with pytest.raises(ValueError, match="EluCD follows one condition on a class"):
        EluCD(Reward(linear))
