"""Every pair of shipped guidances, in both orders, on images and on molecules: it runs, or one line refuses it."""

from collections.abc import Callable
from functools import cached_property
from itertools import product
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import tag_lightning.guidance
from tag_lightning.diffusion import (
    CONDITION_KEY,
    DDIM,
    NULL_TIMESTEP_KEY,
    Denoiser,
    Guidance,
    ImageSpace,
    LinearSchedule,
    PointCloudSpace,
    Sampler,
    Space,
)
from tag_lightning.guidance import (
    APG,
    CFG,
    DPS,
    DSG,
    GFCG,
    LGD,
    MPGD,
    TFG,
    UGD,
    AdapterGuidance,
    AdaptiveGuidance,
    AdaptiveLengthSteps,
    AdaptiveMoments,
    AlignedMoves,
    AutoGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFreeNoiseAwareness,
    ClassifierGuidance,
    Condition,
    ConditionedGuidance,
    ConditionEvaluator,
    Corruption,
    Drift,
    DynamicCFG,
    EluCD,
    EpsilonScaling,
    FixedLengthSteps,
    FreeDoM,
    GuidanceWrapper,
    LangevinCorrector,
    LevelAlignment,
    MoreRedAS,
    MoreRedITP,
    MoreRedJT,
    NoiseAwarenessGuidance,
    NoiseLevelCorrection,
    ProximalAlignment,
    Quantisation,
    REDDiff,
    RegressedNoise,
    ResidualDPS,
    Retiming,
    RLGuidance,
    SelfGuidance,
    TangentialGuidance,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
    TimeCorrection,
    TimeEvaluator,
    TimeShift,
    TimestepGuidance,
    TrustRegion,
)

TOTAL = 20
SCHEDULE = LinearSchedule(TOTAL)


class Flat(nn.Module):
    """A network on all coordinates of images ``[B, 1, 2, 2]`` or clouds ``[B, 4, 3 + 1]``, padding excluded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.num_classes = outputs
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, timesteps: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = x if mask is None else x * mask[..., None]
        return torch.tanh(self.layer(x.flatten(1)))


class SameShape(Flat):
    """A denoising network that is told its timestep, one of three classes, the null ones included, and a scale."""

    scale_range = (1.0, 4.0)

    config: ClassVar = {
        NULL_TIMESTEP_KEY: True,
        CONDITION_KEY: {"attribute": "label", "argument": "class_labels", "num_classes": 3, "has_null": True},
    }

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        mask: Tensor | None = None,
        class_labels: Tensor | None = None,
        guidance_scale: Tensor | None = None,
    ) -> Tensor:
        assert timesteps is not None
        assert class_labels is not None
        factor = (1 + timesteps / TOTAL) * (1 + class_labels / 10)
        if guidance_scale is not None:
            factor = factor * guidance_scale
        output = (super().forward(x, mask=mask) * factor[:, None]).view_as(x)
        return output if mask is None else output * mask[..., None]


class FlatTimePredictor(Flat):
    """A time predictor of which real data were measured."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, TOTAL)
        self.typical_nll = torch.full((TOTAL,), 2.0)


class LevelRegressor(Flat):
    """A regressor of the noise level."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 1)

    def forward(self, x: Tensor, timesteps: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask=mask)[:, 0]


class World:
    """One kind of samples with its small random networks, and every shipped guidance on them."""

    def __init__(self, size: int, space: Callable[[], Space]) -> None:
        self._space = space
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.denoiser = Denoiser(SameShape(size, size), SCHEDULE, "epsilon").requires_grad_(False)
            self.predictor = FlatTimePredictor(size).requires_grad_(False)
            self.regressor = LevelRegressor(size).requires_grad_(False)
            guide = Flat(size, 3).requires_grad_(False)
            self.worse = Denoiser(SameShape(size, size), SCHEDULE, "epsilon").requires_grad_(False)
        self.condition = Condition(guide, torch.tensor([0, 2]))

    def space(self) -> Space:
        """Two samples, of the classes 0 and 2."""
        space = self._space()
        space.denoiser_inputs = {"class_labels": torch.tensor([0, 2])}
        return space

    @cached_property
    def shipped(self) -> dict[str, Guidance]:
        c, p = self.condition, self.predictor
        return {
            "DPS": DPS(c),
            "ResidualDPS": ResidualDPS(c),
            "TFG": TFG(c, gamma=0.1, num_draws=2, num_iterations=2),
            "LGD": LGD(c, num_draws=2),
            "FreeDoM": FreeDoM(c),
            "MPGD": MPGD(c),
            "UGD": UGD(c, mu=0.1),
            "DSG": DSG(c),
            "REDDiff": REDDiff(c),
            "ClassifierGuidance": ClassifierGuidance(c),
            "EluCD": EluCD(c),
            "AdaptiveMoments": AdaptiveMoments(DPS(c, 0.1)),
            "GuidanceWrapper": GuidanceWrapper(DPS(c)),
            "TrustRegion": TrustRegion(TFG(c, num_draws=2, num_iterations=2)),
            "FixedLengthSteps": FixedLengthSteps(AdaptiveMoments(MPGD(c))),
            "AdaptiveLengthSteps": AdaptiveLengthSteps(DPS(c)),
            "ProximalAlignment": ProximalAlignment(DPS(c), p),
            "AlignedMoves": AlignedMoves(DPS(c), p),
            "Corruption": Corruption(0.1),
            "Drift": Drift(-0.1),
            "Quantisation": Quantisation(8),
            "TangentialGuidance": TangentialGuidance(1.2),
            "TemporalAlignment": TemporalAlignment(p, 0.1),
            "TemporalAlignment looking ahead": TemporalAlignment(p, 0.1, [DPS(c)]),
            "TemporalAlignmentAfterStep": TemporalAlignmentAfterStep(p, 0.1),
            "TimeCorrection": TimeCorrection(p),
            # Narrow, so that it does not choose the same timestep whichever it is asked for.
            "TimeShift": TimeShift(window=4, stop=None),
            "TimestepGuidance": TimestepGuidance(0.5, spread=0.2),
            "SelfGuidance": SelfGuidance(0.5, shift=2),
            "EpsilonScaling": EpsilonScaling(1.01),
            "LangevinCorrector": LangevinCorrector(0.1),
            "NoiseLevelCorrection": NoiseLevelCorrection(RegressedNoise(self.regressor)),
            "NoiseAwarenessGuidance": NoiseAwarenessGuidance(p, 0.1),
            "ClassifierFreeNoiseAwareness": ClassifierFreeNoiseAwareness(0.1),
            "Retiming": Retiming(RegressedNoise(self.regressor)),
            "LevelAlignment": LevelAlignment(p, RegressedNoise(self.regressor)),
            "CFG": CFG(1.5),
            "CFGPlusPlus": CFGPlusPlus(0.7),
            "APG": APG(1.7),
            "AdaptiveGuidance": AdaptiveGuidance(1.6, agreement=1.0),
            "CFGZeroStar": CFGZeroStar(1.4),
            "GFCG": GFCG(c, 4.0),
            "DynamicCFG": DynamicCFG([1.2, 1.9], [ConditionEvaluator(c), TimeEvaluator(p)]),
            "AdapterGuidance": AdapterGuidance(1.1),
            "AutoGuidance": AutoGuidance(self.worse, 1.3),
            "RLGuidance": RLGuidance(self.worse, 0.4),
            "MoreRedAS": MoreRedAS(p),
            "MoreRedITP": MoreRedITP(p),
            "MoreRedJT": MoreRedJT(p),
        }

    def sampler(self, *names: str) -> Sampler:
        return Sampler(self.denoiser, DDIM(1.0), 3, [self.shipped[name] for name in names])

    @cached_property
    def alone(self) -> dict[str, Tensor]:
        """The samples of every guidance by itself."""
        return {name: self.sampler(name).sample(self.space(), 0) for name in self.shipped}


WORLDS = {
    "images": World(4, lambda: ImageSpace((1, 2, 2), range(2))),
    "molecules": World(16, lambda: PointCloudSpace([3, 4], 1, range(2))),
}
NAMES = list(WORLDS["images"].shipped)
MORE_RED = {"MoreRedAS", "MoreRedITP", "MoreRedJT"}
OWN_STEP = {*MORE_RED, "REDDiff"}
REPEATED = {"FreeDoM", "UGD"}
RETIMED = {"TimeCorrection", "TimeShift", "Retiming", "NoiseLevelCorrection"}
CONTRASTS = {"TimestepGuidance", "SelfGuidance"}
SECOND_DENOISERS = {"AutoGuidance", "RLGuidance"}
CONDITIONAL = {
    "AdapterGuidance",
    "AdaptiveGuidance",
    "APG",
    "CFGPlusPlus",
    "CFGZeroStar",
    "CFG",
    "DynamicCFG",
    "GFCG",
}
PREDICTING = {
    *RETIMED,
    *CONTRASTS,
    *CONDITIONAL,
    *SECOND_DENOISERS,
    "ClassifierGuidance",
    "ClassifierFreeNoiseAwareness",
    "EpsilonScaling",
    "Quantisation",
    "NoiseAwarenessGuidance",
}
MOVED_BEFORE = {
    "Corruption",
    "LangevinCorrector",
    "LevelAlignment",
    "TemporalAlignment",
    "TemporalAlignment looking ahead",
}
MOVING = set(NAMES) - PREDICTING - MOVED_BEFORE - {"UGD"}


def refusal(first: str, second: str) -> str | None:
    """The reason for which a pair cannot run, as its error states it; None for one that can."""
    if {first, second} & OWN_STEP and {first, second} & REPEATED:
        return "cannot take a step several times"
    if {first, second} <= OWN_STEP:
        return "both take the step; keep one"
    if {first, second} & OWN_STEP and "DSG" in {first, second}:
        return "draws the noise of its steps, which DSG cannot choose"
    if second in OWN_STEP and first in MOVING:
        return f"takes a step of its own and would discard that of {first}; put it before"
    if first in OWN_STEP and second in PREDICTING:
        return f"without the change by {second}; put it after"
    if second == "MoreRedJT" and first in CONTRASTS | {"ClassifierFreeNoiseAwareness"}:
        return f"{first} compares what the denoiser says about timesteps, which MoreRedJT does not tell it"
    if "looking ahead" in second and first in MORE_RED | {"UGD"}:
        return f"cannot look ahead through {first}"
    if first in RETIMED and second in RETIMED | MORE_RED:
        return f"{first} and {second} both choose the timestep of the denoiser"
    if {first, second} <= CONDITIONAL:
        return f"{first} and {second} both contrast the condition; keep one"
    if first in RETIMED and second in CONTRASTS:
        return f"compares answers at two timesteps, and {first} before it replaces both; put {second} before"
    if first in RETIMED and second in SECOND_DENOISERS:
        return f"{first} before it replaces that of the first; put {second} before"
    if first == second == "UGD":
        return "UGD cannot differentiate through UGD, which predicts without a graph"
    if first == second == "DSG":
        return "DSG and DSG both choose the noise of the same steps"
    return None


def test_the_table_holds_everything_that_is_shipped() -> None:
    exported = (getattr(tag_lightning.guidance, name) for name in tag_lightning.guidance.__all__)
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Guidance)}
    assert {kind.__name__ for kind in kinds - {Guidance, ConditionedGuidance}} <= set(NAMES)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("first", NAMES)
def test_every_pair_runs_or_is_refused_in_one_line(first: str, world: World) -> None:
    for second in NAMES:
        reason = refusal(first, second)
        if reason is None:
            samples = world.sampler(first, second).sample(world.space(), 0)
            assert samples.isfinite().all(), (first, second)
            if first == second == "Quantisation":
                continue  # what is rounded twice is rounded
            for name in (first, second):  # neither swallows the other
                assert not torch.allclose(samples, world.alone[name]), f"{first}, {second} does what {name} does alone"
        else:
            with pytest.raises(ValueError, match=reason) as refused:
                world.sampler(first, second)
            assert "\n" not in str(refused.value)


def test_guidances_that_never_act_together_may_be_any() -> None:
    world = WORLDS["images"]
    c = world.condition
    for pair in (
        [DSG(c, stop=10), DSG(c, start=9)],
        [DPS(c, stop=10), MoreRedAS(world.predictor, start=9)],
        [UGD(c, stop=10), UGD(c, start=9)],
        [UGD(c, stop=10), MoreRedAS(world.predictor, start=9)],
        [UGD(c, recurrence=1), MoreRedAS(world.predictor)],
        [TimeCorrection(world.predictor, stop=10), TimeShift(start=9, stop=None)],
        [TimeCorrection(world.predictor, stop=10), SelfGuidance(start=9)],
        [NoiseLevelCorrection(RegressedNoise(world.regressor), stop=10), SelfGuidance(start=9)],
        [TimeCorrection(world.predictor, stop=10), MoreRedAS(world.predictor, start=9)],
        [Retiming(RegressedNoise(world.regressor), stop=10), TimeShift(start=9, stop=None)],
    ):
        assert Sampler(world.denoiser, DDIM(1.0), 4, pair).sample(world.space(), 0).isfinite().all()
    with pytest.raises(ValueError, match="both choose the noise"):
        Sampler(world.denoiser, DDIM(1.0), 4, [DSG(c, stop=10), AdaptiveMoments(DSG(c, start=14))])


WRAPPERS = [
    GuidanceWrapper,
    TrustRegion,
    FixedLengthSteps,
    AdaptiveLengthSteps,
    ProximalAlignment,
    AlignedMoves,
    AdaptiveMoments,
]


def test_the_wrappers_are_all() -> None:
    exported = (getattr(tag_lightning.guidance, name) for name in tag_lightning.guidance.__all__)
    assert {kind for kind in exported if isinstance(kind, type) and issubclass(kind, GuidanceWrapper)} == set(WRAPPERS)


@pytest.mark.parametrize(("outer", "inner"), product(WRAPPERS, NAMES))
def test_every_wrapper_takes_a_guidance_or_refuses_it_in_one_line(outer: type[GuidanceWrapper], inner: str) -> None:
    world = WORLDS["molecules"]
    changes_moves = issubclass(outer, (TrustRegion, ProximalAlignment, AlignedMoves))
    guidance, reason = world.shipped[inner], None
    if not isinstance(guidance, ConditionedGuidance):
        reason = f"cannot wrap {type(guidance).__name__}, which follows no condition; wrap a method"
    elif inner == "REDDiff":
        reason = "cannot wrap REDDiff, which takes a step of its own"
    elif changes_moves and inner == "DSG":
        reason = "cannot change the move of DSG, which turns the noise of the step and leaves its mean"
    elif outer is AdaptiveMoments and isinstance(guidance, GuidanceWrapper):
        reason = "wrap it the other way round"
    elif outer is AdaptiveLengthSteps and isinstance(guidance, AdaptiveLengthSteps):
        reason = "is inside another one"
    if reason is None:
        wrapped = outer(guidance).for_run(tag_lightning.diffusion.Run(world.predictor))  # type: ignore[arg-type]
        assert Sampler(world.denoiser, DDIM(1.0), 3, [wrapped]).sample(world.space(), 0).isfinite().all()
    else:
        with pytest.raises(ValueError, match=reason) as refused:
            outer(guidance)  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)


def test_a_classifier_of_clean_samples_cannot_guide_noisy_ones() -> None:
    clean = Condition(nn.Linear(4, 3), torch.tensor([0, 2]))
    run = tag_lightning.diffusion.Run(conditions={"label": clean})
    with pytest.raises(ValueError, match=r"needs a predictor of noisy samples.* but Linear sees clean samples alone"):
        ClassifierGuidance().for_run(run)
    noisy = {"label": WORLDS["images"].condition}
    assert ClassifierGuidance().for_run(tag_lightning.diffusion.Run(conditions=noisy)).condition is noisy["label"]


def test_a_classifier_of_other_timesteps_is_refused() -> None:
    class Other(Flat):
        num_timesteps = 1000

    guidance = ClassifierGuidance(Condition(Other(4, 3), torch.tensor([0, 2])))
    with pytest.raises(ValueError, match=r"a classifier of 1000 timesteps, but the denoiser's schedule has 20; train"):
        Sampler(WORLDS["images"].denoiser, DDIM(1.0), 3, [guidance])
