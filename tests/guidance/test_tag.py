"""TAG's hooks by hand, on problems whose scores are known."""

import math
from collections.abc import Callable

import pytest
import torch
from gaussian_mixture import ExactTimePosterior, GaussianMixture, time_linked_score
from problems import UNEVEN, ScriptedSpace, exact_denoiser, proposed, random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, ImageSpace, LinearSchedule, Prediction, Sampler, Step
from tag_lightning.guidance import (
    DPS,
    Condition,
    Evidence,
    NoiseProportionalStrength,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
)
from tag_lightning.networks import SimpleCNN

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
POSTERIOR = ExactTimePosterior(UNEVEN, SCHEDULE)
DENOISER = exact_denoiser(UNEVEN, SCHEDULE)


def half_square(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum(1) / 2


def test_correction_is_the_strength_times_the_time_linked_score() -> None:
    x, step = random_vectors(6, 2), step_at(SCHEDULE, vector_space(range(6)), 50, 40)
    moved = TemporalAlignment(POSTERIOR, 0.3).correct(x, step, DENOISER)
    torch.testing.assert_close(moved, x + 0.3 * time_linked_score(UNEVEN, SCHEDULE, x, 50), rtol=1e-9, atol=1e-9)
    assert not moved.requires_grad


def test_two_whole_steps_by_hand() -> None:
    """Algorithm 1: correct, denoise, step."""
    script = random_vectors(2, 6, 2)
    alignment = TemporalAlignment(POSTERIOR, NoiseProportionalStrength(0.5))
    measured = Sampler(DENOISER, DDIM(), 2, [alignment]).sample(ScriptedSpace(script), 0)

    def corrected(x: Tensor, timestep: int) -> Tensor:
        omega = 0.5 * (1 - SCHEDULE.alphas_cumprod[timestep])
        return x + omega * time_linked_score(UNEVEN, SCHEDULE, x, timestep)

    transition = proposed(
        DDIM(), DENOISER(corrected(script[0], 99), 99), step_at(SCHEDULE, vector_space(range(6)), 99, 49)
    )
    x = transition.mean + transition.std * script[1]
    torch.testing.assert_close(measured, DENOISER(corrected(x, 49), 49).x0, rtol=1e-8, atol=1e-8)


def test_after_the_step_it_corrects_at_the_timestep_reached_and_not_at_the_data() -> None:
    """Algorithm 2: step, then correct; the last step is left alone."""
    script = random_vectors(2, 6, 2)
    alignment = TemporalAlignmentAfterStep(POSTERIOR, NoiseProportionalStrength(0.5))
    measured = Sampler(DENOISER, DDIM(), 2, [alignment]).sample(ScriptedSpace(script), 0)
    transition = proposed(DDIM(), DENOISER(script[0], 99), step_at(SCHEDULE, vector_space(range(6)), 99, 49))
    x = transition.mean + transition.std * script[1]
    x = x + 0.5 * (1 - SCHEDULE.alphas_cumprod[49]) * time_linked_score(UNEVEN, SCHEDULE, x, 49)
    torch.testing.assert_close(measured, DENOISER(x, 49).x0, rtol=1e-8, atol=1e-8)


def test_after_a_single_step_there_is_nothing_to_correct() -> None:
    space = vector_space(range(6))
    plain = Sampler(DENOISER, DDIM(), 1).sample(space, 0)
    corrected = Sampler(DENOISER, DDIM(), 1, [TemporalAlignmentAfterStep(POSTERIOR, 5.0)]).sample(space, 0)
    torch.testing.assert_close(corrected, plain, rtol=0, atol=0)


class TestConditions:
    """On Gaussian data the move by a condition has a closed form."""

    MEAN, VARIANCE, TIMESTEP = 0.4, 0.3, 50
    DATA = GaussianMixture([1], [[MEAN, MEAN]], [VARIANCE])
    SPACE = vector_space(range(6))

    def moved(self, x: Tensor, target: Tensor, scale: float) -> Tensor:
        a = float(SCHEDULE.alphas_cumprod[self.TIMESTEP])
        gain = math.sqrt(a) * self.VARIANCE / (a * self.VARIANCE + 1 - a)
        x0 = self.MEAN + gain * (x - math.sqrt(a) * self.MEAN)
        return x + scale * gain * (target - x0)

    def test_correction_is_evaluated_where_the_conditions_lead_and_applied_where_the_sample_is(self) -> None:
        x, targets = random_vectors(6, 2), random_vectors(2, 6, 2, seed=4)
        looks = [DPS(Condition(nn.Identity(), t, half_square), s) for t, s in zip(targets, (0.5, 2.0), strict=True)]
        alignment = TemporalAlignment(ExactTimePosterior(self.DATA, SCHEDULE), 0.3, looks)
        step = step_at(SCHEDULE, self.SPACE, self.TIMESTEP, 40)
        measured = alignment.correct(x, step, exact_denoiser(self.DATA, SCHEDULE))
        led = self.moved(self.moved(x, targets[0], 0.5), targets[1], 2.0)
        expected = x + 0.3 * time_linked_score(self.DATA, SCHEDULE, led, self.TIMESTEP)
        torch.testing.assert_close(measured, expected, rtol=1e-9, atol=1e-9)

    def test_conditions_are_looked_at_through_the_denoiser_in_force(self) -> None:
        """The one wrapped by the guidance before, not the bare network."""
        asked: list[int] = []

        def predict(x: Tensor, timestep: int) -> Prediction:
            asked.append(timestep)
            return Prediction(x, torch.full_like(x, 2.0) * x)

        condition = DPS(Condition(nn.Identity(), torch.zeros(6, 2, dtype=torch.float64), half_square), 0.1)
        x, step = random_vectors(6, 2), step_at(SCHEDULE, self.SPACE, self.TIMESTEP, 40)
        posterior = ExactTimePosterior(self.DATA, SCHEDULE)
        measured = TemporalAlignment(posterior, 0.3, [condition]).correct(x, step, predict)
        assert asked == [self.TIMESTEP]
        expected = x + 0.3 * time_linked_score(self.DATA, SCHEDULE, x - 0.1 * 4 * x, self.TIMESTEP)
        torch.testing.assert_close(measured, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "rule",
    [
        lambda evidence, step: 0.2,
        lambda evidence, step: torch.tensor(0.2),
        lambda evidence, step: torch.full_like(evidence.nll, 0.2),
        lambda evidence, step: 0.2 * evidence.nll / evidence.nll,
    ],
    ids=["number", "scalar", "one-each", "from-evidence"],
)
def test_any_callable_is_a_strength(rule: Callable[[Evidence, Step], Tensor | float]) -> None:
    """For images, whose batch is the first of four dimensions."""
    predictor, x = SimpleCNN(8, 2, 100, widths=(8,)).double(), random_vectors(3, 2, 8, 8)
    step = step_at(SCHEDULE, ImageSpace((2, 8, 8), range(3), dtype=torch.float64), 50, 40)
    expected = TemporalAlignment(predictor, 0.2).correct(x, step, DENOISER)
    torch.testing.assert_close(TemporalAlignment(predictor, rule).correct(x, step, DENOISER), expected)


def test_a_strength_sees_what_the_predictor_says() -> None:
    seen: list[tuple[Evidence, Step]] = []

    def rule(evidence: Evidence, step: Step) -> Tensor:
        seen.append((evidence, step))
        return torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)

    nll = torch.linspace(1, 2, 100, dtype=torch.float64)
    posterior = ExactTimePosterior(UNEVEN, SCHEDULE, nll)
    x, step = random_vectors(3, 2), step_at(SCHEDULE, vector_space(range(3)), 50, 40)
    moved = TemporalAlignment(posterior, rule).correct(x, step, DENOISER) - x
    evidence, shown = seen[0]
    torch.testing.assert_close(evidence.nll, -POSTERIOR(x)[:, 50])
    torch.testing.assert_close(evidence.score, time_linked_score(UNEVEN, SCHEDULE, x, 50), rtol=1e-9, atol=1e-9)
    assert evidence.typical_nll == nll[50]
    assert shown is step
    torch.testing.assert_close(moved[1], evidence.score[1])
    assert moved[0].abs().max() == moved[2].abs().max() == 0


def test_correction_stays_in_the_space() -> None:
    class Flat(ImageSpace):
        def project(self, direction: Tensor) -> Tensor:
            return direction * torch.tensor([1.0, 0.0], dtype=direction.dtype)

    seen: list[Evidence] = []

    def rule(evidence: Evidence, step: Step) -> float:
        seen.append(evidence)
        return 0.3

    x = random_vectors(6, 2)
    moved = TemporalAlignment(POSTERIOR, rule).correct(
        x, step_at(SCHEDULE, Flat((2,), range(6), dtype=torch.float64), 50, 40), DENOISER
    )
    expected = 0.3 * time_linked_score(UNEVEN, SCHEDULE, x, 50)
    torch.testing.assert_close((moved - x)[:, 0], expected[:, 0], rtol=1e-9, atol=1e-9)
    assert (moved - x)[:, 1].abs().max() == 0
    assert seen[0].score[:, 1].abs().max() == 0


def test_the_predictor_gets_the_inputs_of_the_space() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return POSTERIOR(x + shift)

    x, shift, space = random_vectors(3, 2), random_vectors(3, 2, seed=9), vector_space(range(3))
    space.inputs = {"shift": shift}
    expected = time_linked_score(UNEVEN, SCHEDULE, x + shift, 50)
    alignment = TemporalAlignment(Shifted(), 0.3)
    moved = alignment.correct(x, step_at(SCHEDULE, space, 50, 40), DENOISER)
    torch.testing.assert_close(moved, x + 0.3 * expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alignment.time_linked_score(x, 50, space.inputs), expected, rtol=1e-9, atol=1e-9)


def test_correction_of_a_sample_ignores_the_rest_of_its_batch() -> None:
    x, step = random_vectors(6, 2), step_at(SCHEDULE, vector_space(range(6)), 50, 40)
    alignment = TemporalAlignment(POSTERIOR, lambda evidence, step: evidence.nll)
    together = alignment.correct(x, step, DENOISER)
    torch.testing.assert_close(together[4:5], alignment.correct(x[4:5], step, DENOISER))


def test_strength_zero_changes_nothing() -> None:
    space = vector_space(range(6))
    plain = Sampler(DENOISER, DDIM(), 10).sample(space, 0)
    aligned = Sampler(DENOISER, DDIM(), 10, [TemporalAlignment(POSTERIOR, 0.0)]).sample(space, 0)
    torch.testing.assert_close(aligned, plain, rtol=0, atol=0)
