import math

import pytest
import torch
from gaussian_mixture import GaussianMixture
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import UNEVEN, ScriptedSpace, exact_denoiser, random_vectors, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    Guidance,
    ImageSpace,
    LinearSchedule,
    Prediction,
    Proposal,
    Sampler,
    Step,
)

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)


class Nudge(Guidance):
    """Corrects every sample by a step of its own."""

    def correct(self, x: Tensor, step: Step, predict: object) -> Tensor:
        return x + 1


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_timesteps_start_at_the_noisiest_and_decrease(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 2000))
    num_steps = data.draw(st.integers(1, total))
    timesteps = Sampler(Denoiser(nn.Identity(), LinearSchedule(total), "epsilon"), DDIM(), num_steps).timesteps
    gaps = [a - b for a, b in zip(timesteps, [*timesteps[1:], -1], strict=True)]
    assert len(timesteps) == num_steps
    assert timesteps[0] == total - 1
    assert min(gaps) >= 1
    assert all(abs(gap - total / num_steps) <= 1 for gap in gaps)


@pytest.mark.parametrize("num_steps", [0, -3, 101])
def test_more_steps_than_timesteps_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"num_steps must lie in 1 .. 100 \(the schedule's T\), got {num_steps}"):
        Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(), num_steps)


def test_recurrence_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="recurrence must be at least 1, got 0"):
        Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(), 10, recurrence=0)


def test_guidance_may_replace_the_noise_of_a_proposal() -> None:
    """Noise of the opposite sign is a script of the opposite sign, except for the initial noise."""

    class Redraw(Guidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            return proposal._replace(noise=-proposal.noise)

    denoiser, script = exact_denoiser(UNEVEN, SCHEDULE), random_vectors(10, 4, 2)
    replaced = Sampler(denoiser, DDIM(), 10, [Guidance(), Redraw()]).sample(ScriptedSpace(script), 0)
    script[1:] *= -1
    torch.testing.assert_close(replaced, Sampler(denoiser, DDIM(), 10).sample(ScriptedSpace(script), 0))


def test_observers_see_what_the_denoiser_sees() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[Tensor, int]] = []

        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            self.seen.append((x.detach().clone(), int(timesteps[0])))
            return torch.tanh(x)

    network, observed = Watched(), []
    sampler = Sampler(Denoiser(network, SCHEDULE, "epsilon"), DDIM(), 7, [Nudge()])
    sampler.sample(vector_space(range(3)), 0, observers=[lambda x, step: observed.append((x.clone(), step.timestep))])
    assert [timestep for _, timestep in observed] == sampler.timesteps
    for (seen, at), (shown, timestep) in zip(network.seen, observed, strict=True):
        assert at == timestep
        torch.testing.assert_close(seen, shown, rtol=0, atol=0)


def test_inputs_of_the_space_reach_the_denoiser_at_every_step() -> None:
    seen: list[Tensor] = []

    class Masked(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
            seen.append(mask)
            return x * mask

    space = vector_space(range(3))
    space.inputs = {"mask": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    Sampler(Denoiser(Masked(), SCHEDULE, "epsilon"), DDIM(), 4).sample(space, 0)
    assert len(seen) == 4
    assert all(mask is space.inputs["mask"] for mask in seen)


def test_steps_describe_themselves() -> None:
    steps: list[Step] = []
    sampler = Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(), 4)
    space = vector_space(range(2))
    sampler.sample(space, 0, observers=[lambda x, step: steps.append(step)])
    powers = SCHEDULE.alphas_cumprod.tolist()
    assert [(s.index, s.timestep, s.next_timestep) for s in steps] == [
        (0, 99, 74),
        (1, 74, 49),
        (2, 49, 24),
        (3, 24, None),
    ]
    assert [s.alpha_bar for s in steps] == [powers[s.timestep] for s in steps]
    assert [s.next_alpha_bar for s in steps] == [powers[74], powers[49], powers[24], 1.0]
    assert all(s.space is space for s in steps)
    assert (steps[0].reached().timestep, steps[0].reached().alpha_bar) == (74, powers[74])
    with pytest.raises(ValueError, match="no timestep"):
        steps[-1].reached()


def test_recurrence_follows_its_formula() -> None:
    """Two steps, twice each, on Gaussian data: x0_hat and epsilon are linear in x."""
    mean, variance = 0.5, 0.3
    denoiser = exact_denoiser(GaussianMixture([1], [[mean]], [variance]), SCHEDULE)
    script = random_vectors(3, 4, 1)
    measured = Sampler(denoiser, DDIM(eta=0), 2, recurrence=2).sample(ScriptedSpace(script), 0)

    def reverse(x: Tensor, a: float, a_next: float) -> Tensor:
        centred = (x - math.sqrt(a) * mean) / (a * variance + 1 - a)
        x0, epsilon = mean + math.sqrt(a) * variance * centred, math.sqrt(1 - a) * centred
        return math.sqrt(a_next) * x0 + math.sqrt(1 - a_next) * epsilon

    powers = [*SCHEDULE.alphas_cumprod[[99, 49]].tolist(), 1.0]
    x = script[0]
    for k in range(2):
        a, a_next = powers[k], powers[k + 1]
        once = reverse(x, a, a_next)
        x = reverse(math.sqrt(a / a_next) * once + math.sqrt(1 - a / a_next) * script[k + 1], a, a_next)
    torch.testing.assert_close(measured, x)


def test_recurrence_denoises_that_many_times_a_step() -> None:
    visited: list[int] = []
    sampler = Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(), 3, recurrence=4)
    sampler.sample(vector_space(range(2)), 0, observers=[lambda x, step: visited.append(step.timestep)])
    assert visited == [timestep for timestep in sampler.timesteps for _ in range(4)]


def test_samples_stay_in_the_range_of_the_space_even_when_pushed() -> None:
    class Push(Guidance):
        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            return proposal.moved(torch.tensor(10.0))

    denoiser = exact_denoiser(UNEVEN, SCHEDULE)
    samples = Sampler(denoiser, DDIM(), 5, [Push()]).sample(ImageSpace((2,), range(4), clip_range=(-1, 0.5)), 0)
    assert samples.max() == 0.5
    assert samples.dtype == torch.float32


def test_samples_carry_no_graph_even_if_guidance_leaves_one() -> None:
    class Attached(Guidance):
        needs_grad = True

        def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
            with torch.enable_grad():
                return proposal.moved(0.1 * prediction.x0)

    for guidance in ([], [Attached()]):
        samples = Sampler(exact_denoiser(UNEVEN, SCHEDULE), DDIM(), 3, guidance).sample(vector_space(range(2)), 0)
        assert not samples.requires_grad
        assert not samples.is_inference()
