"""What guidance needs measured or told is missed before anything is drawn, however deep it lies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sampling_runs import tiny_data, tiny_task
from tiny_runs import SIZE, TIMESTEPS, TinyNetworks, seeded

from tag_lightning.diffusion import Guidance
from tag_lightning.evaluation import Arm, ArmSampler
from tag_lightning.evaluation.networks import load_denoiser
from tag_lightning.guidance import (
    DPS,
    AlignedMoves,
    LevelAlignment,
    MoreRedAS,
    NoiseAwarenessGuidance,
    PolyakStrength,
    ProximalAlignment,
    TemporalAlignment,
    TimeCorrection,
    TrustRegion,
)
from tag_lightning.guidance.noise_level import KnownNoise
from tag_lightning.networks import SimpleCNN

Guidances = Callable[[], Guidance]

UNMEASURED: dict[str, Guidances] = {
    "TemporalAlignment": TemporalAlignment,
    "ProximalAlignment": lambda: ProximalAlignment(DPS()),
    "AlignedMoves": lambda: AlignedMoves(DPS()),
    "wrapped twice": lambda: TrustRegion(ProximalAlignment(DPS()), 0.1),
    "a condition of TAG": lambda: TemporalAlignment(strength=0.1, conditions=[ProximalAlignment(DPS())]),
}
ASKING: dict[str, Guidances] = {
    "TemporalAlignment": lambda: TemporalAlignment(strength=0.1),
    "NoiseAwarenessGuidance": NoiseAwarenessGuidance,
    "TimeCorrection": TimeCorrection,
    "MoreRedAS": MoreRedAS,
    "LevelAlignment": lambda: LevelAlignment(level=KnownNoise(0.1)),
    "ProximalAlignment": lambda: ProximalAlignment(DPS()),
}


def sampler(tiny: TinyNetworks, network: SimpleCNN) -> ArmSampler:
    task, measuring = tiny_task(tiny).for_data(tiny_data()).for_samples(4), predictor()
    denoiser = load_denoiser(tiny.root / "denoiser", task.data.example)
    return ArmSampler(denoiser, task, network, measuring, num_steps=3, chunk_size=4, progress=False)


def predictor(**settings: dict[str, int]) -> SimpleCNN:
    return seeded(lambda: SimpleCNN(SIZE, num_timesteps=TIMESTEPS, widths=(8, 8), **settings), 5)


@pytest.mark.parametrize("name", UNMEASURED)
def test_a_predictor_that_measured_nothing_is_refused_before_drawing(name: str, tiny: TinyNetworks) -> None:
    arms, network = {"plain": Arm(), "aligned": Arm([UNMEASURED[name]()])}, predictor()
    owner = name if name.endswith(("Alignment", "Moves")) and name != "TemporalAlignment" else r"(\w+: )?\w+"
    with pytest.raises(ValueError, match=rf"^arm aligned: {owner} needs a time predictor with a measured typical_nll"):
        sampler(tiny, network).require_possible(arms)
    sampler(tiny, network).require_possible(arms, measured=False)
    network.typical_nll.fill_(1.0)
    sampler(tiny, network).require_possible(arms)


def test_a_quantile_that_was_not_measured_is_refused_before_drawing(tiny: TinyNetworks) -> None:
    network = predictor()
    network.typical_nll.fill_(1.0)
    arms = {"tag": Arm([TemporalAlignment(strength=PolyakStrength(quantile=0.6))])}
    sampler(tiny, network).require_possible(arms)  # saved without quantiles: compares with the mean
    network.nll_quantiles.fill_(1.0)
    with pytest.raises(ValueError, match=r"^arm tag: quantile 0.6 was not measured; choose one of 0.5"):
        sampler(tiny, network).require_possible(arms)


@pytest.mark.parametrize("name", ASKING)
def test_a_condition_that_a_predictor_is_not_told_is_named_before_drawing(name: str, tiny: TinyNetworks) -> None:
    network = predictor(conditions={"hue": 8})
    network.typical_nll.fill_(1.0)
    arms = {"plain": Arm(), "asking": Arm([ASKING[name]()])}
    with pytest.raises(ValueError, match=r"^arm asking: SimpleCNN was trained with the condition 'hue', which is miss"):
        sampler(tiny, network).require_possible(arms)
