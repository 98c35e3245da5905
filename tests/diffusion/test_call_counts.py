"""What a step costs, counted in passes of every network."""

import re
from collections.abc import Callable, Sequence

import pytest
import torch
from problems import vector_space
from torch import Tensor, nn

from tag_lightning.diffusion import (
    DDIM,
    NULL_TIMESTEP_KEY,
    Denoiser,
    Guidance,
    LinearSchedule,
    Predict,
    Sampler,
    Step,
)
from tag_lightning.guidance import (
    DPS,
    DSG,
    LGD,
    MPGD,
    TFG,
    UGD,
    AdaptiveMoments,
    AlignedMoves,
    ClassifierFreeNoiseAwareness,
    ClassifierGuidance,
    Condition,
    Corruption,
    Drift,
    EluCD,
    EpsilonScaling,
    FixedLengthSteps,
    FreeDoM,
    JointCondition,
    LangevinCorrector,
    NoiseAwarenessGuidance,
    NoiseLevel,
    NoiseLevelCorrection,
    PosteriorNoise,
    PredictedNoise,
    ProximalAlignment,
    REDDiff,
    RegressedNoise,
    ResidualDPS,
    Retiming,
    SelfGuidance,
    TemporalAlignment,
    TemporalAlignmentAfterStep,
    TimeCorrection,
    TimeShift,
    TimestepGuidance,
)

NUM_STEPS, TOTAL = 6, 20


class Counted(nn.Module):
    """A network that counts its forward passes, and the backward passes that reach its output."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, outputs)
        self.forwards = 0
        self.backwards = 0

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        self.forwards += 1
        output = torch.tanh(self.layer(x))
        if output.requires_grad:
            output.register_hook(self._count)
        return output

    def _count(self, gradient: Tensor) -> None:
        self.backwards += 1

    @property
    def passes(self) -> tuple[float, float]:
        """Forward and backward passes a step."""
        return self.forwards / NUM_STEPS, self.backwards / NUM_STEPS


class Networks:
    """One counted network of each kind, frozen as they are while sampling."""

    def __init__(self) -> None:
        self.denoiser, self.predictor, self.guide = Counted(2), Counted(TOTAL), Counted(3)
        for network in (self.denoiser, self.predictor, self.guide):
            network.requires_grad_(False)
        self.condition = Condition(self.guide, torch.tensor([0, 1, 2]))

    def sample(self, guidance: Sequence[Guidance]) -> None:
        denoiser = Denoiser(self.denoiser, LinearSchedule(TOTAL), "epsilon")
        Sampler(denoiser, DDIM(), NUM_STEPS, guidance).sample(vector_space(range(3), dtype=torch.float32), seed=0)

    def tag(self, conditions: Sequence[DPS] = ()) -> TemporalAlignment:
        return TemporalAlignment(self.predictor, 0.1, conditions)


@pytest.fixture
def networks() -> Networks:
    return Networks()


def test_an_unguided_step_is_one_forward_pass(networks: Networks) -> None:
    networks.sample([])
    assert networks.denoiser.forwards == NUM_STEPS
    assert networks.denoiser.backwards == 0


def test_guidance_without_gradients_costs_nothing_more(networks: Networks) -> None:
    networks.sample([Corruption(0.1), Drift(-0.1)])
    assert networks.denoiser.passes == (1, 0)


def test_tag_adds_one_pass_each_way_of_the_predictor_and_nothing_else(networks: Networks) -> None:
    networks.sample([networks.tag()])
    assert networks.denoiser.passes == (1, 0)
    assert networks.predictor.passes == (1, 1)
    assert networks.predictor.forwards == NUM_STEPS


def test_tag_after_the_step_spares_the_last_one(networks: Networks) -> None:
    networks.sample([TemporalAlignmentAfterStep(networks.predictor, 0.1)])
    assert networks.denoiser.passes == (1, 0)
    assert (networks.predictor.forwards, networks.predictor.backwards) == (NUM_STEPS - 1, NUM_STEPS - 1)


def test_a_guided_step_is_one_pass_each_way(networks: Networks) -> None:
    networks.sample([DPS(networks.condition)])
    assert networks.denoiser.passes == (1, 1)
    assert networks.guide.passes == (1, 1)


def test_guidance_and_tag_share_the_pass_of_the_denoiser(networks: Networks) -> None:
    networks.sample([networks.tag(), DPS(networks.condition)])
    assert networks.denoiser.passes == (1, 1)
    assert networks.guide.passes == (1, 1)
    assert networks.predictor.passes == (1, 1)


def test_joint_conditions_share_the_backward_pass(networks: Networks) -> None:
    other = Counted(4)
    joint = JointCondition([networks.condition, Condition(other, torch.tensor([0, 1, 3]))])
    networks.sample([DPS(joint)])
    assert networks.denoiser.passes == (1, 1)
    assert networks.guide.passes == other.passes == (1, 1)


def test_two_guidances_differentiate_one_forward_pass(networks: Networks) -> None:
    networks.sample([DPS(networks.condition), DPS(networks.condition)])
    assert networks.denoiser.passes == (1, 2)


@pytest.mark.parametrize(
    ("build", "denoiser", "guide"),
    [
        (lambda c: ResidualDPS(c), (1, 1), (2, 1)),
        (lambda c: TFG(c, gamma=0.1, num_draws=3, num_iterations=2), (1, 1), (9, 9)),
        (lambda c: LGD(c, num_draws=4), (1, 1), (4, 4)),
        (lambda c: FreeDoM(c, recurrence=2), (2, 2), (2, 2)),
        (lambda c: MPGD(c, num_iterations=3), (1, 0), (3, 3)),
        (lambda c: UGD(c, mu=0.1, num_iterations=2), (2, 2), (6, 6)),
        (lambda c: FixedLengthSteps(DPS(c)), ((1, 5 / 6)), (5 / 6, 5 / 6)),
        (lambda c: AdaptiveMoments(DPS(c)), (1, 1), (1, 1)),
        (lambda c: EluCD(c), (1, 0), (1, 1)),
        (lambda c: REDDiff(c), (1, 0), (1, 1)),
    ],
    ids=[
        *("ResidualDPS", "TFG", "LGD", "FreeDoM", "MPGD", "UGD", "FixedLengthSteps", "AdaptiveMoments", "EluCD"),
        "REDDiff",
    ],
)
def test_methods_cost_what_the_documents_say(
    build: Callable[[Condition], Guidance],
    denoiser: tuple[float, float],
    guide: tuple[float, float],
    networks: Networks,
) -> None:
    """Bounded steps spare the last one, which they do not guide."""
    networks.sample([build(networks.condition)])
    assert networks.denoiser.passes == denoiser
    assert networks.guide.passes == guide


class Level(nn.Module):
    """A regressor of the noise level that finds every sample a little too noisy."""

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.full((len(x),), 0.1)


@pytest.mark.parametrize(
    ("build", "alone", "beside_dps", "predictor"),
    [
        (lambda n: TimeCorrection(n.predictor), 1, (2, 1), (1, 0)),
        (lambda n: TimestepGuidance(), 2, (2, 1), (0, 0)),
        (lambda n: SelfGuidance(), 2, (2, 1), (0, 0)),
        (lambda n: EpsilonScaling(), 1, (1, 1), (0, 0)),
        (lambda n: TimeShift(4, stop=None), 1, (1 + (NUM_STEPS - 1) / NUM_STEPS, 1), (0, 0)),
        (lambda n: LangevinCorrector(num_corrections=2), 3, (3, 1), (0, 0)),
        (lambda n: NoiseLevelCorrection(RegressedNoise(Level())), 1, (2, 1), (0, 0)),
        (lambda n: NoiseLevelCorrection(PosteriorNoise(n.predictor, rounds=1)), 1, (2, 1), (1, 0)),
        (lambda n: NoiseAwarenessGuidance(n.predictor), 1, (1, 1), (1, 1)),
        (lambda n: ClassifierFreeNoiseAwareness(), 2, (2, 1), (0, 0)),
    ],
    ids=lambda value: None,
)
def test_corrections_cost_what_the_documents_say(
    build: Callable[[Networks], Guidance],
    alone: float,
    beside_dps: tuple[float, float],
    predictor: tuple[float, float],
) -> None:
    """Those that denoise at another timestep make a gradient method ask for the scheduled one as well."""
    for with_dps, cost in ((False, (alone, 0)), (True, beside_dps)):
        networks = Networks()
        networks.denoiser.config = {NULL_TIMESTEP_KEY: True}  # type: ignore[assignment]
        networks.sample([build(networks), *([DPS(networks.condition)] if with_dps else [])])
        assert networks.denoiser.passes == pytest.approx(cost)
        assert networks.predictor.passes == predictor


class Asked(NoiseLevel):
    """A level by a counted network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        return 0.1 * self.network(x)[:, 0]


def test_retiming_adds_the_cost_of_its_level_alone(networks: Networks) -> None:
    networks.sample([Retiming(Asked(networks.predictor))])
    assert networks.denoiser.passes == (1, 0)
    assert networks.predictor.passes == (1, 0)


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_level_by_the_predicted_noise_costs_a_pass_a_round(rounds: int, networks: Networks) -> None:
    networks.sample([Retiming(PredictedNoise(rounds))])
    assert networks.denoiser.passes == (1 + rounds, 0)


def test_gradients_beside_retiming_cost_a_pass_more(networks: Networks) -> None:
    networks.sample([Retiming(Asked(networks.predictor)), DPS(networks.condition)])
    assert networks.denoiser.passes == (2, 1)


def test_moves_that_the_predictor_judges_spare_the_last_step(networks: Networks) -> None:
    guided = 5 / 6
    networks.predictor.typical_nll = torch.full((TOTAL,), 3.0)  # type: ignore[assignment]
    networks.sample([ProximalAlignment(DPS(networks.condition), networks.predictor, halvings=2)])
    assert networks.predictor.passes == pytest.approx((4 * guided, 0))
    assert networks.guide.passes == pytest.approx((guided, guided))
    other = Networks()
    other.predictor.typical_nll = torch.full((TOTAL,), 3.0)  # type: ignore[assignment]
    other.sample([AlignedMoves(DPS(other.condition), other.predictor)])
    assert other.predictor.passes == pytest.approx((guided, guided))


def test_spherical_guidance_spares_the_step_without_noise(networks: Networks) -> None:
    networks.sample([DSG(networks.condition)])
    assert networks.denoiser.passes == (1, (NUM_STEPS - 1) / NUM_STEPS)


def test_a_classifier_of_noisy_samples_leaves_the_denoiser_without_a_graph(networks: Networks) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
            return networks.guide(x)

    networks.sample([ClassifierGuidance(Condition(Noisy(), torch.tensor([0, 1, 2])))])
    assert networks.denoiser.passes == (1, 0)
    assert networks.guide.passes == (1, 1)


def test_looking_ahead_costs_a_guided_call_a_condition(networks: Networks) -> None:
    look = DPS(networks.condition)
    networks.sample([networks.tag([look, look])])
    assert networks.denoiser.passes == (3, 2)
    assert networks.predictor.passes == (1, 1)


def test_trainable_weights_gather_no_gradients(networks: Networks) -> None:
    everything = (networks.denoiser, networks.predictor, networks.guide)
    for network in everything:
        network.requires_grad_(True)
    networks.sample([networks.tag(), DPS(networks.condition)])
    assert all(parameter.grad is None for network in everything for parameter in network.parameters())


def stated(guidance: type[Guidance], **symbols: int) -> dict[str, tuple[float, float]]:
    """The numbers that ``guidance.cost`` comes to, by network."""
    parts = (part.split(" ", 1) for part in guidance.cost.split(", "))
    products = {network: re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", cost).split(" / ") for network, cost in parts}
    return {network: tuple(eval(one, dict(symbols)) for one in two) for network, two in products.items()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("build", "symbols"),
    [
        (lambda n: Corruption(0.1), {}),
        (lambda n: n.tag(), {}),
        (lambda n: DPS(n.condition), {}),
        (lambda n: ResidualDPS(n.condition), {}),
        (lambda n: TFG(n.condition, gamma=0.1, num_draws=3, num_iterations=2), {"K": 3, "n": 2}),
        (lambda n: LGD(n.condition, num_draws=4), {"K": 4}),
        (lambda n: FreeDoM(n.condition, recurrence=3), {"r": 3}),
        (lambda n: MPGD(n.condition, num_iterations=3), {"n": 3}),
        (lambda n: UGD(n.condition, mu=0.1, num_iterations=2, recurrence=3), {"n": 2, "r": 3}),
        (lambda n: REDDiff(n.condition), {}),
    ],
    ids=["Corruption", "TemporalAlignment", "DPS", "ResidualDPS", "TFG", "LGD", "FreeDoM", "MPGD", "UGD", "REDDiff"],
)
def test_a_class_states_the_cost_that_is_counted(
    build: Callable[[Networks], Guidance], symbols: dict[str, int], networks: Networks
) -> None:
    guidance = build(networks)
    networks.sample([guidance])
    for network, passes in stated(type(guidance), **symbols).items():
        assert getattr(networks, network).passes == passes
