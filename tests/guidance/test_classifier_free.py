"""Guidance by a condition, held to Gaussians whose scores are known for every class and for all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from gaussian_mixture import ExactDenoiser, ExactTimePosterior, GaussianMixture
from problems import random_vectors, step_at, vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    CONDITION_KEY,
    DDIM,
    Conditioning,
    Denoiser,
    DPMSolverPlusPlus,
    Guidance,
    LinearSchedule,
    Prediction,
    Run,
    Sampler,
    Step,
)
from tag_lightning.guidance import (
    APG,
    CFG,
    AdaptiveGuidance,
    AutoGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    RLGuidance,
    TemporalAlignment,
    TimeCorrection,
)

COUNT, TOTAL, T = 6, 100, 60
SCHEDULE = LinearSchedule(TOTAL, 1e-4, 0.1)
MEANS, VARIANCE = [[2.0, 0.5], [-1.0, 1.5]], 0.3
CLASSES = [GaussianMixture([1], [mean], [VARIANCE]) for mean in MEANS]
ALL = GaussianMixture([1, 1], MEANS, [VARIANCE, VARIANCE])
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])
LABEL = Conditioning("label", "class_labels", num_classes=2, has_null=True)


class ClassDenoiser(nn.Module):
    """The exact denoiser of each class, and of the mixture for the null class."""

    def __init__(self, conditioning: Conditioning = LABEL) -> None:
        super().__init__()
        self.config = {CONDITION_KEY: asdict(conditioning)}
        self.exact = nn.ModuleList(ExactDenoiser(mixture, SCHEDULE) for mixture in (*CLASSES, ALL))
        self.heard: list[list[int]] = []

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        self.heard.append(class_labels.tolist())
        answers = torch.stack([exact(x, timesteps) for exact in self.exact], 1)
        return answers[torch.arange(len(x)), class_labels]


def denoiser() -> Denoiser:
    return Denoiser(ClassDenoiser(), SCHEDULE, "epsilon")


def space(labels: Tensor | None = LABELS) -> Any:
    made = vector_space(range(COUNT))
    made.denoiser_inputs = {} if labels is None else LABEL.inputs({"label": labels})
    return made


def sampled(guidance: list[Guidance], labels: Tensor | None = LABELS, num_steps: int = 12, eta: float = 0.0) -> Tensor:
    return Sampler(denoiser(), DDIM(eta), num_steps, guidance).sample(space(labels), 0)


def denoised(guidance: Guidance, x: Tensor, step: Step, own: Denoiser | None = None) -> Prediction:
    own = own or denoiser()

    def predict(x: Tensor, timestep: Tensor | int, **inputs: Any) -> Prediction:
        return own(x, timestep, **{**step.space.denoiser_inputs, **inputs})

    return guidance.denoise(x, step, predict)


def class_scores(x: Tensor, power: float) -> Tensor:
    scores = torch.stack([mixture.score(x, power) for mixture in CLASSES])
    return scores[LABELS, torch.arange(len(x))]


def at(t: int = T, index: int = 0) -> Step:
    return step_at(SCHEDULE, space(), t, t - 8, index)


@pytest.mark.parametrize("t", [5, 60, 99])
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 4.0])
def test_the_guided_score_is_the_extrapolated_one(w: float, t: int) -> None:
    x, a = random_vectors(COUNT, 2), float(SCHEDULE.alphas_cumprod[t])
    guided = denoised(CFG(w), x, at(t))
    expected = (1 - w) * ALL.score(x, a) + w * class_scores(x, a)
    torch.testing.assert_close(-guided.epsilon / math.sqrt(1 - a), expected)
    torch.testing.assert_close(SCHEDULE.add_noise(guided.x0, guided.epsilon, t), x)


CONTRASTS: dict[str, Callable[..., Guidance]] = {
    "CFG": CFG,
    "APG": APG,
    "AdaptiveGuidance": AdaptiveGuidance,
    "CFGZeroStar": lambda w: CFGZeroStar(w, zero_init_steps=0),
}


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_scale_of_one_samples_with_the_condition(name: str) -> None:
    torch.testing.assert_close(sampled([CONTRASTS[name](1.0)]), sampled([]))


@pytest.mark.parametrize("guidance", [CFG(0.0), CFGPlusPlus(0.0)], ids=["CFG", "CFG++"])
def test_a_scale_of_zero_samples_without_the_condition(guidance: Guidance) -> None:
    torch.testing.assert_close(sampled([guidance]), sampled([], labels=None))


def test_plus_plus_puts_the_unconditional_noise_back() -> None:
    x, w, a, after = random_vectors(COUNT, 2), 0.6, *(float(SCHEDULE.alphas_cumprod[t]) for t in (T, T - 8))
    guided = denoised(CFGPlusPlus(w), x, at())
    unconditional = -math.sqrt(1 - a) * ALL.score(x, a)
    mixed = (1 - w) * unconditional - w * math.sqrt(1 - a) * class_scores(x, a)
    clean = (x - math.sqrt(1 - a) * mixed) / math.sqrt(a)
    mean = DDIM(0.0).propose(x, guided, at(), denoiser()).mean
    torch.testing.assert_close(mean, math.sqrt(after) * clean + math.sqrt(1 - after) * unconditional)


def test_plus_plus_needs_a_solver_that_reads_the_noise() -> None:
    with pytest.raises(
        ValueError, match=r"CFGPlusPlus changes the noise .* DPMSolverPlusPlus does not read it; use DDIM"
    ):
        Sampler(denoiser(), DPMSolverPlusPlus(), 4, [CFGPlusPlus()])


@pytest.mark.parametrize("scale", [-0.1, 1.1])
def test_plus_plus_interpolates(scale: float) -> None:
    with pytest.raises(ValueError, match=r"guidance_scale.* got "):
        CFGPlusPlus(scale)


def test_projection_with_its_knobs_off_is_classifier_free_guidance() -> None:
    off = APG(3.0, parallel_weight=1.0, momentum=0.0)
    torch.testing.assert_close(sampled([off]), sampled([CFG(3.0)]))


def test_projection_follows_the_form_of_diffusers_over_the_steps() -> None:
    """Momentum, cap and projection together, over three steps."""
    own, buffer = denoiser(), MomentumBuffer(-0.6)
    guidance, state = APG(3.0, 0.2, 0.4, -0.6), dict[str, Any]()
    for index, t in enumerate((80, 60, 40)):
        x, step = random_vectors(COUNT, 2, seed=index), at(t, index)
        step.__dict__["state"] = state
        conditional, unconditional = own(x, t, class_labels=LABELS).x0, own(x, t, null_condition=True).x0
        expected = normalized_guidance(
            conditional, unconditional, 3.0 - 1, buffer, 0.2, 0.4, use_original_formulation=True
        )
        for _ in range(2):  # a second prediction in the same step leaves the momentum as it was
            guided = denoised(guidance, x, step)
            torch.testing.assert_close(guided.x0, expected)
        torch.testing.assert_close(SCHEDULE.add_noise(guided.x0, guided.epsilon, t), x)


def test_adaptive_guidance_stops_when_the_answers_agree() -> None:
    """Guided up to the step of agreement and conditional from there, sample by sample, and cheaper."""
    own = denoiser()
    network, steps = own.network, 12
    samples = Sampler(own, DDIM(0.0), steps, [AdaptiveGuidance(3.0, agreement=0.9)]).sample(space(), 0)
    passes = len(network.heard)
    assert steps < passes < 2 * steps
    last = network.heard[-1]
    assert last == LABELS.tolist()
    for i in range(COUNT):
        one = vector_space([i])
        one.denoiser_inputs = LABEL.inputs({"label": LABELS[[i]]})
        cut = [
            Sampler(own, DDIM(0.0), steps, [CFG(3.0, stop=stop)]).sample(one, 0)[0]
            for stop in Sampler(own, DDIM(0.0), steps).timesteps
        ]
        assert any(torch.allclose(samples[i], other) for other in cut), i
    never = sampled([AdaptiveGuidance(3.0, agreement=1.0)])
    torch.testing.assert_close(never, sampled([CFG(3.0)]))


def test_zero_star_is_guidance_of_the_velocity() -> None:
    x, w, own = random_vectors(COUNT, 2), 3.0, denoiser()
    a = float(SCHEDULE.alphas_cumprod[T])
    signal, noise = math.sqrt(a), math.sqrt(1 - a)
    answers = [own(x, T, class_labels=LABELS), own(x, T, null_condition=True)]
    conditional, unconditional = (signal * answer.epsilon - noise * answer.x0 for answer in answers)
    scaled = cfg_zero_star_scale(conditional, unconditional).double() * unconditional
    guided = denoised(CFGZeroStar(w), x, at(index=1))
    velocity = scaled + w * (conditional - scaled)
    torch.testing.assert_close(signal * guided.epsilon - noise * guided.x0, velocity, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(SCHEDULE.add_noise(guided.x0, guided.epsilon, T), x)


def test_zero_star_stands_still_at_first() -> None:
    """Turned by the angle of the step without a velocity, a sample shrinks by its cosine."""
    x, step = random_vectors(COUNT, 2), at()
    a, after = (float(SCHEDULE.alphas_cumprod[t]) for t in (T, T - 8))
    mean = DDIM(0.0).propose(x, denoised(CFGZeroStar(3.0), x, step), step, denoiser()).mean
    torch.testing.assert_close(mean, math.cos(math.acos(math.sqrt(a)) - math.acos(math.sqrt(after))) * x)


def test_guidance_in_a_limited_interval_leaves_the_condition_outside() -> None:
    asked: list[tuple[int, bool]] = []

    class Noting(Guidance):
        def denoise(self, x: Tensor, step: Step, predict: Any) -> Prediction:
            asked.append((step.timestep, not step.space.denoiser_inputs))
            return predict(x, step.timestep)

    sampled([Noting(), CFG(3.0, start=70, stop=30)], num_steps=10)
    conditional = {t for t, null in asked if not null}
    assert conditional == {99, 89, 79, 69, 59, 49, 39, 29, 19, 9}
    assert {t for t, null in asked if null} == {69, 59, 49, 39}


@pytest.mark.parametrize("name", [*CONTRASTS, "CFGPlusPlus"])
def test_the_condition_costs_a_second_pass(name: str) -> None:
    own = denoiser()
    guidance = CFGPlusPlus() if name == "CFGPlusPlus" else CONTRASTS[name](2.0)
    if isinstance(guidance, AdaptiveGuidance):
        guidance = AdaptiveGuidance(agreement=1.0)
    Sampler(own, DDIM(0.0), 5, [guidance]).sample(space(), 0)
    assert own.network.heard == [LABELS.tolist(), [2] * COUNT] * 5


@pytest.mark.parametrize("kind", [AutoGuidance, RLGuidance])
def test_a_second_denoiser_is_an_end_of_the_scale(kind: Any) -> None:
    other = Denoiser(ExactDenoiser(GaussianMixture([1], [[0.0, 3.0]], [1.0]), SCHEDULE), SCHEDULE, "epsilon")
    samples = [sampled([kind(other, scale)]) for scale in (0.0, 1.0)]
    ends = [Sampler(other, DDIM(0.0), 12).sample(space(labels=None), 0), sampled([])]
    for found, expected in zip(samples, ends if kind is AutoGuidance else reversed(ends), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 2.5])
def test_a_mixture_with_a_reward_tuned_gaussian_is_the_tuning_at_another_temperature(w: float) -> None:
    """``N(m, v)`` tilted by the reward ``x_0 / temperature`` has the mean ``m + v / temperature``."""
    mean, shift = torch.tensor([0.5, -1.0]), torch.tensor([0.9, 0.0])
    tilted = [GaussianMixture([1], [(mean + factor * shift).tolist()], [VARIANCE]) for factor in (0.0, 1.0, w)]
    base, tuned, expected = (Denoiser(ExactDenoiser(each, SCHEDULE), SCHEDULE, "epsilon") for each in tilted)
    unconditional = space(labels=None)
    mixed = Sampler(base, DDIM(0.0), 12, [RLGuidance(tuned, w)]).sample(unconditional, 0)
    torch.testing.assert_close(mixed, Sampler(expected, DDIM(0.0), 12).sample(unconditional, 0))


def test_a_worse_denoiser_is_told_the_same_condition() -> None:
    worse = denoiser()
    Sampler(denoiser(), DDIM(0.0), 2, [AutoGuidance(worse)]).sample(space(), 0)
    assert worse.network.heard == [LABELS.tolist()] * 2
    worse.network.heard.clear()
    Sampler(denoiser(), DDIM(0.0), 1, [AutoGuidance(worse), CFG()]).sample(space(), 0)
    assert worse.network.heard == [LABELS.tolist(), [2] * COUNT]


def test_a_second_denoiser_is_loaded_by_the_run() -> None:
    with pytest.raises(ValueError, match=r"AutoGuidance names some/path, but this run loads no networks"):
        AutoGuidance("some/path").for_run(Run())
    loaded = AutoGuidance("some/path").for_run(Run(load_denoiser={"some/path": denoiser()}.__getitem__))
    assert isinstance(loaded.other, Denoiser)


def test_a_second_denoiser_is_not_compared_at_another_timestep() -> None:
    correction = TimeCorrection(ExactTimePosterior(ALL, SCHEDULE))
    with pytest.raises(ValueError, match=r"and TimeCorrection before it replaces that .* put AutoGuidance before"):
        Sampler(denoiser(), DDIM(), 4, [correction, AutoGuidance(denoiser())])


@pytest.mark.parametrize("name", [*CONTRASTS, "CFGPlusPlus"])
def test_alignment_composes_with_every_one(name: str) -> None:
    """TAG moves the sample, and the guidance then acts on the moved one."""
    guidance = CFGPlusPlus(0.5) if name == "CFGPlusPlus" else CONTRASTS[name](2.0)
    tag = TemporalAlignment(ExactTimePosterior(ALL, SCHEDULE), 0.05)
    both, alone, plain = sampled([tag, guidance]), sampled([guidance]), sampled([tag])
    assert both.isfinite().all()
    assert not torch.allclose(both, alone)
    assert not torch.allclose(both, plain)


@pytest.mark.parametrize("kind", [CFG, AdaptiveGuidance, CFGPlusPlus])
def test_a_denoiser_without_a_null_condition_is_refused_when_the_sampler_is_made(kind: type[Guidance]) -> None:
    plain = Denoiser(ExactDenoiser(ALL, SCHEDULE), SCHEDULE, "epsilon")
    always = Denoiser(ClassDenoiser(Conditioning("label", "class_labels", 2, has_null=False)), SCHEDULE, "epsilon")
    for own in (plain, always):
        with pytest.raises(ValueError, match=rf"^{kind.__name__} needs a denoiser .* a condition dropped at random"):
            Sampler(own, DDIM(), 4, [kind()])
    with pytest.raises(ValueError, match="is unconditional and has no null condition"):
        plain(torch.zeros(2, 2), 5, null_condition=True)
    with pytest.raises(ValueError, match=r"was always told the 'label' .*condition_dropout 0\.1$"):
        always(torch.zeros(2, 2), 5)


def test_a_space_without_conditions_is_refused_before_sampling() -> None:
    sampler = Sampler(denoiser(), DDIM(), 4, [CFG()])
    with pytest.raises(ValueError, match=r"CFG strengthens the condition .* the space has none"):
        sampler.sample(space(labels=None), 0)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_the_denoiser_does_not_know_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"knows the classes 0 \.\. 1 of 'label', but .* asked for"):
        LABEL.inputs({"label": torch.tensor([0, label])})


def test_a_property_that_is_not_finite_is_refused() -> None:
    conditional = Conditioning("alpha", "context", None, has_null=True)
    assert conditional.inputs({"alpha": torch.ones(2)})["context"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"is told 'alpha', but 1 of 2 values asked for are not finite"):
        conditional.inputs({"alpha": torch.tensor([1.0, math.nan])})


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    for kind in (CFG, APG, lambda w: AutoGuidance("x", w)):
        with pytest.raises(ValueError, match="guidance_scale must be a finite number of at least 0"):
            kind(scale)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm_threshold": 0.0}, "norm_threshold must be above 0"),
        ({"momentum": -1.0}, r"momentum must lie in \(-1, 1\)"),
        ({"parallel_weight": math.nan}, "parallel_weight must be finite"),
    ],
)
def test_impossible_settings_of_projection_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        APG(**settings)


def test_other_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="zero_init_steps must be at least 0"):
        CFGZeroStar(zero_init_steps=-1)
    with pytest.raises(ValueError, match=r"agreement must lie in \(-1, 1\]"):
        AdaptiveGuidance(agreement=1.5)
