import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import proposed, random_vectors, step_at, vector_space

from tag_lightning.diffusion import DDIM, LinearSchedule, Prediction

SCHEDULE = LinearSchedule(100)
PREDICTION = Prediction(epsilon=random_vectors(4, 2, seed=1), x0=random_vectors(4, 2, seed=2))
SPACE = vector_space(range(4))


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_outside_the_unit_interval_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
        DDIM(eta)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.integers(1, 99), st.data())
def test_signal_and_noise_of_the_next_sample_are_those_of_its_timestep(
    eta: float, timestep: int, data: st.DataObject
) -> None:
    """Whatever eta: sqrt(a') of x0, and noise of variance 1 - a' in epsilon and draw together."""
    reached = data.draw(st.integers(0, timestep - 1))
    step = step_at(SCHEDULE, SPACE, timestep, reached)
    transition = proposed(DDIM(eta), PREDICTION, step)
    a_next = float(SCHEDULE.alphas_cumprod[reached])
    direction = transition.mean - math.sqrt(a_next) * PREDICTION.x0
    weight = float((direction / PREDICTION.epsilon).mean())
    torch.testing.assert_close(direction, weight * PREDICTION.epsilon, rtol=1e-6, atol=1e-9)
    assert weight**2 + transition.std**2 == pytest.approx(1 - a_next, rel=1e-6)


def test_the_last_step_is_the_clean_sample() -> None:
    for eta in (0.0, 1.0):
        transition = proposed(DDIM(eta), PREDICTION, step_at(SCHEDULE, SPACE, 0, None))
        torch.testing.assert_close(transition.mean, PREDICTION.x0, rtol=0, atol=0)
        assert transition.std == 0


def test_eta_zero_draws_no_noise_and_eta_scales_it() -> None:
    step = step_at(SCHEDULE, SPACE, 50, 40)
    stds = [proposed(DDIM(eta), PREDICTION, step).std for eta in (0.0, 0.5, 1.0)]
    assert stds[0] == 0
    assert stds[1] == pytest.approx(stds[2] / 2)
