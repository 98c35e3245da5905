"""Dynamic classifier-free guidance: the greedy choice of a scale, and its evaluators, on Gaussian classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from class_mixture import ClassMixture, ExactClassifier
from gaussian_mixture import ExactDenoiser, ExactTimePosterior
from problems import random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import DDIM, Denoiser, Guidance, ImageSpace, LinearSchedule, Prediction, Run, Sampler, Step
from tag_lightning.guidance import (
    CFG,
    Condition,
    ConditionEvaluator,
    DiscriminatorEvaluator,
    DynamicCFG,
    Evaluator,
    TimeEvaluator,
)
from tag_lightning.guidance.dynamic_cfg import normalised

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
MIXTURE = ClassMixture([[1.0, 0.5], [-1.0, 0.8], [0.2, -1.0]], 0.4, SCHEDULE)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SCALES = [0.5, 1.0, 2.0, 4.0]


class Scripted(Evaluator):
    """Scores candidates by their place in the list, by a table ``[S]`` or ``[S, B]``."""

    def __init__(self, *table: Any) -> None:
        self.table = torch.tensor(table, dtype=torch.float64)
        self.asked = 0

    def scores(self, candidate: Prediction, step: Step) -> Tensor:
        row = self.table[self.asked % len(self.table)]
        self.asked += 1
        return row.expand(len(candidate.x0))


def likelihood() -> ConditionEvaluator:
    return ConditionEvaluator(Condition(ExactClassifier(MIXTURE), LABELS))


def sampled(guidance: Guidance, own: Denoiser | None = None) -> Tensor:
    return Sampler(own or MIXTURE.denoiser(), DDIM(0.0), 8, [guidance]).sample(MIXTURE.space(LABELS), 0)


def predictions(t: int) -> tuple[Prediction, Prediction, Step]:
    x, own, space = random_vectors(6, 2), MIXTURE.denoiser(), MIXTURE.space(LABELS)
    step = step_at(SCHEDULE, space, t, t - 8 if t >= 8 else None)
    return own(x, t, class_labels=LABELS), own(x, t, null_condition=True), step


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_single_scale_is_classifier_free_guidance_with_it(scale: float) -> None:
    torch.testing.assert_close(sampled(DynamicCFG([scale], [likelihood()])), sampled(CFG(scale)))


@pytest.mark.parametrize(("table", "scale"), [([3, 2, 1, 0], 0.5), ([0, 1, 2, 3], 4.0), ([0, 5, 1, 1], 1.0)])
def test_the_preferred_scale_is_taken(table: list[float], scale: float) -> None:
    torch.testing.assert_close(sampled(DynamicCFG(SCALES, [Scripted(*table)])), sampled(CFG(scale)))


def test_every_sample_has_its_own_scale() -> None:
    places = torch.tensor([3, 0, 2, 1, 1, 3])
    table = nn.functional.one_hot(places, 4).T.tolist()
    chosen = sampled(DynamicCFG(SCALES, [Scripted(*table)]))
    each = torch.stack([sampled(CFG(scale)) for scale in SCALES])
    torch.testing.assert_close(chosen, each[places, torch.arange(6)])


def test_a_tie_goes_to_the_earlier_scale() -> None:
    torch.testing.assert_close(sampled(DynamicCFG(SCALES, [Scripted(1.0)])), sampled(CFG(0.5)))


def test_normalised_scores_are_added_with_their_weights() -> None:
    scores = torch.tensor([[1.0, 7.0], [3.0, 7.0], [2.0, 7.0]])
    assert normalised(scores).T.tolist() == [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    large, small = Scripted(0, 1e6, 0), Scripted(0, 0, 1e-6)  # their units do not count, their weights do
    for weights, place in (([1.0, 2.0], 2), ([2.0, 1.0], 1), ([1.0, 0.0], 1), (None, 1)):
        guidance = DynamicCFG([1.0, 2.0, 3.0], [large, small], weights)
        assert guidance.chosen(*predictions(60)).tolist() == [place] * 6


@pytest.mark.parametrize("t", [60, 7])
def test_the_choice_by_the_classifier_and_the_time_predictor_is_the_exact_one(t: int) -> None:
    conditional, unconditional, step = predictions(t)
    a = step.next_alpha_bar
    reached = step.next_timestep or 0
    expected: dict[str, list[Tensor]] = {"class": [], "time": []}
    for scale in SCALES:
        epsilon = unconditional.epsilon + scale * (conditional.epsilon - unconditional.epsilon)
        x0 = unconditional.x0 + scale * (conditional.x0 - unconditional.x0)
        end = a**0.5 * x0 + (1 - a) ** 0.5 * epsilon
        times = MIXTURE.all.log_density(end[:, None], SCHEDULE.alphas_cumprod).log_softmax(1)
        expected["time"].append(times[:, reached])
        expected["class"].append(MIXTURE.log_posterior(x0)[torch.arange(6), LABELS])
    time = TimeEvaluator(ExactTimePosterior(MIXTURE.all, SCHEDULE))
    for name, evaluator in {"class": likelihood(), "time": time}.items():
        exact = torch.stack(expected[name])
        assert (
            DynamicCFG(SCALES, [evaluator]).chosen(conditional, unconditional, step).tolist()
            == exact.argmax(0).tolist()
        )
    assert torch.stack(expected["time"]).argmax(0).unique().numel() > 1


def test_evaluators_see_the_clipped_estimate_and_what_the_solver_steps_from() -> None:
    seen: list[Prediction] = []

    class Noting(Evaluator):
        def scores(self, candidate: Prediction, step: Step) -> Tensor:
            seen.append(candidate)
            return candidate.x0.sum(1)

    conditional, unconditional, step = predictions(60)
    space = ImageSpace((2,), range(6), dtype=torch.float64, clip_range=(-0.5, 0.5))
    step.__dict__["space"] = space
    DynamicCFG([1.0, 8.0], [Noting()]).chosen(conditional, unconditional, step)
    for candidate in seen:
        assert candidate.x0.abs().max() <= 0.5
        torch.testing.assert_close(
            SCHEDULE.add_noise(candidate.x0, candidate.epsilon, 60),
            SCHEDULE.add_noise(conditional.x0, conditional.epsilon, 60),
        )


@pytest.mark.parametrize("column", [False, True])
def test_a_discriminator_prefers_what_looks_real(column: bool) -> None:
    class Real(nn.Module):
        """Higher the nearer to the origin; drops out in training mode."""

        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            logits = -x.square().sum(1)
            return logits[:, None] if column else logits

    conditional, unconditional, step = predictions(60)
    places = DynamicCFG(SCALES, [DiscriminatorEvaluator(Real())]).chosen(conditional, unconditional, step)
    x0 = torch.stack([unconditional.x0 + scale * (conditional.x0 - unconditional.x0) for scale in SCALES])
    assert places.tolist() == x0.square().sum(2).argmin(0).tolist()


def test_a_step_takes_two_passes_of_the_denoiser_and_one_of_each_evaluator_per_scale() -> None:
    own, classifier = MIXTURE.denoiser(), ExactClassifier(MIXTURE)
    sampled(DynamicCFG(SCALES, [ConditionEvaluator(Condition(classifier, LABELS))]), own)
    assert own.network.heard == [LABELS.tolist(), [3] * 6] * 8
    assert len(classifier.outputs) == 8 * len(SCALES)
    assert not any(output.requires_grad for output in classifier.outputs)


def test_what_is_open_comes_from_the_run() -> None:
    predictor = ExactTimePosterior(MIXTURE.all, SCHEDULE)
    run = Run(predictor, {"label": Condition(ExactClassifier(MIXTURE), LABELS)})
    ready = DynamicCFG(SCALES, [ConditionEvaluator("label"), TimeEvaluator()], [1.0, 3.0]).for_run(run)
    named = DynamicCFG(SCALES, [likelihood(), TimeEvaluator(predictor)], [1.0, 3.0])
    torch.testing.assert_close(sampled(ready), sampled(named))
    torch.testing.assert_close(sampled(DynamicCFG(SCALES).for_run(run)), sampled(DynamicCFG(SCALES, [likelihood()])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": []}, r"scales must be finite numbers of at least 0, one or more, got \[\]"),
        ({"scales": [1.0, -1.0]}, r"scales must be finite numbers of at least 0, one or more, got \[1\.0, -1\.0\]"),
        ({"evaluators": []}, "DynamicCFG needs an evaluator, but the list is empty; leave it out for the guide"),
        ({"evaluators": [nn.Identity()]}, "^Identity gives no scores; an evaluator is an Evaluator, such as"),
        ({"weights": [1.0, 1.0]}, "there are 1 evaluators, but 2 weights; give one for each"),
        ({"weights": [0.0]}, r"weights must be finite, at least 0 and not all 0, got \[0\.0\]"),
    ],
    ids=["no scale", "negative scale", "no evaluator", "no scores", "weights", "no weight"],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicCFG(**arguments)


def test_an_evaluator_without_its_network_is_refused_before_sampling() -> None:
    for evaluator, lacking in ((ConditionEvaluator(), "no condition"), (TimeEvaluator(), "no time predictor")):
        name = type(evaluator).__name__
        with pytest.raises(ValueError, match=f"^{name} has {lacking}: pass .*or give the run"):
            DynamicCFG(SCALES, [evaluator]).for_run(Run())
        with pytest.raises(ValueError, match=f"^{name} has {lacking}"):
            Sampler(MIXTURE.denoiser(), DDIM(), 4, [DynamicCFG(SCALES, [evaluator])])


def test_a_discriminator_of_several_classes_gives_no_score() -> None:
    wrong = DynamicCFG(SCALES, [DiscriminatorEvaluator(nn.Linear(2, 3, dtype=torch.float64))])
    with pytest.raises(ValueError, match=r"a discriminator gives one logit per sample, but Linear gives \[6, 3\]"):
        sampled(wrong)


def test_an_unconditional_denoiser_is_refused() -> None:
    plain = Denoiser(ExactDenoiser(MIXTURE.all, SCHEDULE), SCHEDULE, "epsilon")
    for own in (plain, MIXTURE.denoiser(has_null=False)):
        with pytest.raises(ValueError, match=r"^DynamicCFG needs a denoiser .* a condition dropped at random"):
            Sampler(own, DDIM(), 4, [DynamicCFG(SCALES, [likelihood()])])
    with pytest.raises(ValueError, match="DynamicCFG strengthens the condition of each sample, but the space has none"):
        Sampler(MIXTURE.denoiser(), DDIM(), 4, [DynamicCFG(SCALES, [likelihood()])]).sample(vector_space(range(6)), 0)
