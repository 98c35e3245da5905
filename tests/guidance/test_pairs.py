"""Every pair of shipped guidances, in both orders, on images and on molecules: it runs, or one line refuses it."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import tag_lightning.guidance
from tag_lightning.diffusion import (
    DDIM,
    Denoiser,
    Guidance,
    ImageSpace,
    LinearSchedule,
    PointCloudSpace,
    Sampler,
    Space,
)
from tag_lightning.guidance import (
    DPS,
    DSG,
    LGD,
    MPGD,
    TFG,
    UGD,
    AdaptiveMoments,
    ClassifierGuidance,
    Condition,
    ConditionedGuidance,
    Corruption,
    Drift,
    FixedLengthSteps,
    FreeDoM,
    GuidanceWrapper,
    MoreRedAS,
    MoreRedITP,
    ResidualDPS,
    TangentialGuidance,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
    TrustRegion,
)

TOTAL = 20
SCHEDULE = LinearSchedule(TOTAL)


class Flat(nn.Module):
    """A network on all coordinates of images ``[B, 1, 2, 2]`` or clouds ``[B, 4, 3 + 1]``, padding excluded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, timesteps: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = x if mask is None else x * mask[..., None]
        return torch.tanh(self.layer(x.flatten(1)))


class SameShape(Flat):
    def forward(self, x: Tensor, timesteps: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        output = super().forward(x, timesteps, mask).view_as(x)
        return output if mask is None else output * mask[..., None]


class World:
    """One kind of samples with its small random networks."""

    def __init__(self, size: int, space: Callable[[], Space]) -> None:
        self.space = space
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.denoiser = Denoiser(SameShape(size, size), SCHEDULE).requires_grad_(False)
            self.predictor, guide = Flat(size, TOTAL).requires_grad_(False), Flat(size, 3).requires_grad_(False)
        self.condition = Condition(guide, torch.tensor([0, 2]))

    def shipped(self) -> dict[str, Guidance]:
        c = self.condition
        return {
            "DPS": DPS(c),
            "ResidualDPS": ResidualDPS(c),
            "TFG": TFG(c, gamma=0.1),
            "LGD": LGD(c, num_draws=2),
            "FreeDoM": FreeDoM(c),
            "MPGD": MPGD(c),
            "UGD": UGD(c, mu=0.1),
            "DSG": DSG(c),
            "ClassifierGuidance": ClassifierGuidance(c),
            "AdaptiveMoments": AdaptiveMoments(DPS(c, 0.1)),
            "GuidanceWrapper": GuidanceWrapper(DPS(c)),
            "TrustRegion": TrustRegion(TFG(c)),
            "FixedLengthSteps": FixedLengthSteps(AdaptiveMoments(MPGD(c))),
            "Corruption": Corruption(0.1),
            "Drift": Drift(-0.1),
            "TangentialGuidance": TangentialGuidance(1.2),
            "TemporalAlignment": TemporalAlignment(self.predictor, 0.1),
            "TemporalAlignment looking ahead": TemporalAlignment(self.predictor, 0.1, [DPS(c)]),
            "TemporalAlignmentAfterStep": TemporalAlignmentAfterStep(self.predictor, 0.1),
            "TimeCorrection": TimeCorrection(self.predictor),
            "TimeShift": TimeShift(stop=None),
            "TimestepGuidance": TimestepGuidance(0.1),
            "SelfGuidance": SelfGuidance(0.1, shift=2),
            "EpsilonScaling": EpsilonScaling(1.01),
            "LangevinCorrector": LangevinCorrector(0.1),
            "NoiseLevelCorrection": NoiseLevelCorrection(LevelRegressor()),
            "TimePredictorLevelCorrection": TimePredictorLevelCorrection(self.predictor),
            "NoiseAwarenessGuidance": NoiseAwarenessGuidance(self.predictor, 0.1),
            "ClassifierFreeNoiseAwareness": ClassifierFreeNoiseAwareness(0.1),
            "MoreRedAS": MoreRedAS(self.predictor),
            "MoreRedITP": MoreRedITP(self.predictor),
        }


WORLDS = {
    "images": World(4, lambda: ImageSpace((1, 2, 2), range(2))),
    "molecules": World(16, lambda: PointCloudSpace([3, 4], 1, range(2))),
}
NAMES = list(WORLDS["images"].shipped())
MORE_RED = {"MoreRedAS", "MoreRedITP"}
REPEATED = {"FreeDoM", "UGD"}
MOVING = set(NAMES) - {
    "UGD",
    "ClassifierGuidance",
    "Corruption",
    "TemporalAlignment",
    "TemporalAlignment looking ahead",
}


def refusal(first: str, second: str) -> str | None:
    """The reason for which a pair cannot run, as its error states it; None for one that can."""
    if {first, second} & MORE_RED and {first, second} & REPEATED:
        return "cannot take a step several times"
    if {first, second} <= MORE_RED:
        return "both take the step; keep one"
    if {first, second} & MORE_RED and "DSG" in {first, second}:
        return "draws the noise of its steps, which DSG cannot choose"
    if second in MORE_RED and first in MOVING:
        return f"takes a step of its own and would discard that of {first}; put it before"
    if first in MORE_RED and second == "ClassifierGuidance":
        return "without the change by ClassifierGuidance; put it after"
    if "looking ahead" in second and first in MORE_RED | {"UGD"}:
        return f"cannot look ahead through {first}"
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
        pair, reason = [world.shipped()[first], world.shipped()[second]], refusal(first, second)
        if reason is None:
            samples = Sampler(world.denoiser, DDIM(1.0), 3, pair).sample(world.space(), 0)
            assert samples.isfinite().all(), (first, second)
        else:
            with pytest.raises(ValueError, match=reason) as refused:
                Sampler(world.denoiser, DDIM(1.0), 3, pair)
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
    ):
        assert Sampler(world.denoiser, DDIM(1.0), 4, pair).sample(world.space(), 0).isfinite().all()
    with pytest.raises(ValueError, match="both choose the noise"):
        Sampler(world.denoiser, DDIM(1.0), 4, [DSG(c, stop=10), AdaptiveMoments(DSG(c, start=14))])


WRAPPERS = [GuidanceWrapper, TrustRegion, FixedLengthSteps, AdaptiveMoments]


@pytest.mark.parametrize(("outer", "inner"), product(WRAPPERS, NAMES))
def test_every_wrapper_takes_a_guidance_or_refuses_it_in_one_line(outer: type[GuidanceWrapper], inner: str) -> None:
    world = WORLDS["molecules"]
    guidance, bounds = world.shipped()[inner], issubclass(outer, TrustRegion)
    reason = None
    if not isinstance(guidance, ConditionedGuidance):
        reason = f"cannot wrap {type(guidance).__name__}, which follows no condition; wrap a method"
    elif inner in {"UGD", "ClassifierGuidance"}:
        reason = "changes the prediction rather than the proposal"
    elif bounds and inner == "DSG":
        reason = "cannot bound DSG, which turns the noise of the step and leaves its mean"
    elif outer is AdaptiveMoments and isinstance(guidance, GuidanceWrapper):
        reason = "wrap it the other way round"
    if reason is None:
        wrapped: Guidance = outer(guidance)  # type: ignore[arg-type]
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
