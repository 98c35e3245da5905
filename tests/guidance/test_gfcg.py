"""GFCG on three Gaussian classes: the published mixture of two class scores written out, and its limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from class_mixture import ClassMixture, ExactClassifier
from gaussian_mixture import ExactDenoiser
from problems import random_vectors, step_at
from torch import Tensor, nn

from tag_lightning.diffusion import (
    CONDITION_KEY,
    DDIM,
    Denoiser,
    Guidance,
    LinearSchedule,
    Predict,
    Prediction,
    Run,
    Sampler,
    Step,
)
from tag_lightning.guidance import CFG, DPS, GFCG, AutoGuidance, Condition, SquaredError
from tag_lightning.guidance.classifier_free import extrapolated

SCHEDULE = LinearSchedule(100, 1e-4, 0.1)
MIXTURE = ClassMixture([[1.0, 0.5], [-1.0, 0.8], [0.2, -1.0]], 0.4, SCHEDULE)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
T, W = 60, 3.0


def classified(classifier: nn.Module | None = None) -> Condition:
    return Condition(classifier or ExactClassifier(MIXTURE), LABELS)


class Certain(nn.Module):
    """A classifier that is certain of the class of each sample, whatever it sees."""

    num_classes = 3

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return 1e6 * nn.functional.one_hot(self.classes, 3).to(x)


def sampled(*guidance: Guidance, own: Denoiser | None = None, labels: Tensor = LABELS, eta: float = 0.0) -> Tensor:
    return Sampler(own or MIXTURE.denoiser(), DDIM(eta), 12, guidance).sample(MIXTURE.space(labels), 0)


class Contrast(Guidance):
    """Classifier-free guidance from named classes in place of the null condition."""

    def __init__(self, classes: Tensor, scale: float) -> None:
        super().__init__()
        self.classes, self.scale = classes, scale

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        return extrapolated(
            predict(x, step.timestep), predict(x, step.timestep, class_labels=self.classes), self.scale, step
        )


@pytest.mark.parametrize("t", [5, T, 99])
def test_the_score_is_the_mixture_by_the_exact_classifier(t: int) -> None:
    own, space = MIXTURE.denoiser(), MIXTURE.space(LABELS)
    x, a = random_vectors(6, 2), float(SCHEDULE.alphas_cumprod[t])
    posterior = MIXTURE.log_posterior(MIXTURE.clean(x, LABELS, a)).exp()
    certainty = posterior.gather(1, LABELS[:, None])[:, 0]
    reference = posterior.scatter(1, LABELS[:, None], 0.0).argmax(1)
    scale = (1 + (W - 1) * (1 - certainty))[:, None]
    expected = (1 - scale) * MIXTURE.scores(x, reference, a) + scale * MIXTURE.scores(x, LABELS, a)

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Any) -> Prediction:
        return own(x, timestep, **{**space.denoiser_inputs, **inputs})

    guided = GFCG(classified(), W).denoise(x, step_at(SCHEDULE, space, t, max(0, t - 8)), predict)
    torch.testing.assert_close(-guided.epsilon / math.sqrt(1 - a), expected)
    torch.testing.assert_close(SCHEDULE.add_noise(guided.x0, guided.epsilon, t), x)
    assert len(set(reference.tolist())) > 1  # the class differs from sample to sample


def test_certainty_of_the_class_leaves_plain_conditional_sampling() -> None:
    torch.testing.assert_close(sampled(GFCG(classified(Certain(LABELS)), W)), sampled())
    torch.testing.assert_close(sampled(GFCG(classified(), 1.0)), sampled())


def test_certainty_of_another_class_is_guidance_away_from_it_at_the_full_scale() -> None:
    others = (LABELS + 1) % 3
    torch.testing.assert_close(sampled(GFCG(classified(Certain(others)), W)), sampled(Contrast(others, W)))


def test_a_step_takes_two_passes_of_the_denoiser_and_one_of_the_classifier_without_gradient() -> None:
    own, classifier = MIXTURE.denoiser(), ExactClassifier(MIXTURE)
    guidance = GFCG(classified(classifier), W)
    assert not guidance.needs_grad
    sampled(guidance, own=own)
    assert len(own.network.heard) == 24
    assert own.network.heard[::2] == [LABELS.tolist()] * 12
    assert all(
        label != conditional
        for labels in own.network.heard[1::2]
        for label, conditional in zip(labels, LABELS, strict=True)
    )
    assert len(classifier.outputs) == 12
    assert not any(output.requires_grad for output in classifier.outputs)


def test_samples_are_recognised_more_surely() -> None:
    labels = LABELS.repeat(20)
    likelihoods = [
        -nn.functional.cross_entropy(MIXTURE.log_posterior(sampled(*guidance, labels=labels)), labels)
        for guidance in ([], [GFCG(Condition(ExactClassifier(MIXTURE), labels), W)])
    ]
    assert likelihoods[1] > likelihoods[0] + 0.1


def test_a_denoiser_that_was_always_told_will_do() -> None:
    always = MIXTURE.denoiser(has_null=False)
    torch.testing.assert_close(sampled(GFCG(classified(), W), own=always), sampled(GFCG(classified(), W)))


def test_auto_guidance_behind_it_contrasts_its_prediction() -> None:
    worse = MIXTURE.denoiser()
    both = sampled(GFCG(classified(), W), AutoGuidance(worse, 1.0))
    torch.testing.assert_close(both, sampled(GFCG(classified(), W)))
    worse.network.heard.clear()
    sampled(AutoGuidance(worse, 1.5), GFCG(classified(), W))
    assert worse.network.heard[0] == LABELS.tolist()
    assert all(label != conditional for label, conditional in zip(worse.network.heard[1], LABELS, strict=True))


@pytest.mark.parametrize("condition", [None, "label"])
def test_the_classifier_is_that_of_the_run(condition: str | None) -> None:
    run = Run(conditions={"label": classified()})
    torch.testing.assert_close(sampled(GFCG(condition, W).for_run(run)), sampled(GFCG(classified(), W)))


def test_a_run_without_a_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^GFCG has no condition: pass condition="):
        GFCG().for_run(Run())
    quantity = Condition(nn.Identity(), LABELS, SquaredError(1.0))
    with pytest.raises(ValueError, match="GFCG asks a classifier; name the condition on a class by condition"):
        GFCG().for_run(Run(conditions={"ink": quantity}))
    with pytest.raises(ValueError, match="GFCG asks a classifier"):
        sampled(GFCG("label"))
    assert DPS().for_run(Run(conditions={"ink": quantity})) is not None


def test_networks_of_other_classes_are_refused_when_the_sampler_is_made() -> None:
    def refused(match: str, classifier: nn.Module, own: Denoiser | None = None) -> None:
        with pytest.raises(ValueError, match=match):
            Sampler(own or MIXTURE.denoiser(), DDIM(), 4, [GFCG(classified(classifier))])

    ten, nameless = nn.Linear(2, 10), nn.Linear(2, 3)
    ten.num_classes = 10  # type: ignore[assignment]
    refused("GFCG tells 10 classes apart, but the denoiser is told one of 3; give it", ten)
    refused("but Linear has no num_classes; give it that attribute", nameless)
    plain = Denoiser(ExactDenoiser(MIXTURE.all, SCHEDULE), SCHEDULE, "epsilon")
    refused(r"^GFCG needs a conditional denoiser, which this one is not; take another", ExactClassifier(MIXTURE), plain)
    network = nn.Identity()
    network.config = {  # type: ignore[assignment]
        CONDITION_KEY: {"attribute": "alpha", "argument": "context", "num_classes": None, "has_null": True}
    }
    told_alpha = Denoiser(network, SCHEDULE, "epsilon")
    refused("but this denoiser is told the quantity 'alpha'; take one", ExactClassifier(MIXTURE), told_alpha)


def test_it_is_one_contrast_of_the_condition_and_needs_one() -> None:
    with pytest.raises(ValueError, match="GFCG and CFG both contrast the condition; keep one"):
        sampled(GFCG(classified()), CFG())
    space = MIXTURE.space(LABELS)
    space.denoiser_inputs = {}
    with pytest.raises(ValueError, match="GFCG strengthens the condition of each sample, but the space has none"):
        Sampler(MIXTURE.denoiser(), DDIM(), 4, [GFCG(classified())]).sample(space, 0)
