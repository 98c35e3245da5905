"""When guided sampling runs, what it draws, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_runs import tiny_data, tiny_module, tiny_sampling, tiny_task, tiny_trainer
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.callbacks import GuidedSampling
from tag_lightning.cli import main
from tag_lightning.evaluation import Arm, ImageTask, Results, default_arms
from tag_lightning.guidance import DPS, ConstantStrength, Corruption, TemporalAlignment

FIGURES = ("fid", "accuracy", "time_gap")


def _figures(sampling: GuidedSampling) -> dict[str, dict[str, float]]:
    return {arm: {m: r.figures[m] for m in FIGURES} for arm, r in sampling.results.items()}


class CountingSampling(GuidedSampling):
    """Notes the epochs it samples in."""

    def _evaluate(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.epochs = [*getattr(self, "epochs", []), trainer.current_epoch]


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (9, [4])])
def test_sampling_is_due_every_so_many_epochs_and_after_the_last(
    every: int, expected: list[int], tiny: TinyNetworks, tmp_path: Path
) -> None:
    denoiser = str(tiny.root / "denoiser")
    sampling = CountingSampling(denoiser=denoiser, task=tiny_task(tiny), num_steps=3, every_n_epochs=every)
    tiny_trainer(tmp_path, sampling, max_epochs=5).fit(tiny_module(), datamodule=tiny_data())
    assert sampling.epochs == expected


def test_training_ends_with_the_same_weights_with_and_without_sampling(tiny: TinyNetworks, tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [tiny_sampling(tiny)]):
        torch.manual_seed(0)
        module = tiny_module()
        tiny_trainer(tmp_path, *callbacks, max_epochs=2).fit(module, datamodule=tiny_data())
        weights.append(module.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_global_random_state_has_no_influence(tiny: TinyNetworks, tmp_path: Path) -> None:
    figures = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        sampling = tiny_sampling(tiny)
        tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data(), verbose=False)
        figures.append(_figures(sampling))
    assert figures[0] == figures[1]


def test_more_samples_begin_with_the_same_ones(tiny: TinyNetworks, tmp_path: Path) -> None:
    samples = []
    for count in (6, 10):
        sampling = tiny_sampling(tiny, num_samples=count)
        tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data(), verbose=False)
        samples.append({name: result.samples for name, result in sampling.results.items()})
    assert all(torch.equal(samples[0][name], samples[1][name][:6]) for name in samples[0])


def test_an_arm_is_the_same_beside_others_and_alone(tiny: TinyNetworks, tmp_path: Path) -> None:
    beside = tiny_sampling(tiny)
    alone = tiny_sampling(tiny, arms={"dps+tag": Arm([TemporalAlignment(), DPS()])})
    for sampling in (beside, alone):
        tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data(), verbose=False)
    assert _figures(alone)["dps+tag"] == _figures(beside)["dps+tag"]
    assert torch.equal(alone.results["dps+tag"].samples, beside.results["dps+tag"].samples)


def test_guidance_of_no_strength_changes_nothing(tiny: TinyNetworks, tmp_path: Path) -> None:
    arms = {
        "plain": Arm(),
        "nothing": Arm([TemporalAlignment(strength=0.0), DPS(scale=0.0), Corruption(0.0)]),
    }
    sampling = tiny_sampling(tiny, arms=arms)
    tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data(), verbose=False)
    plain, nothing = (sampling.results[name].samples for name in arms)
    assert torch.allclose(plain, nothing, atol=1e-5)


def test_validation_twice_gives_the_same_and_training_goes_on_between(tiny: TinyNetworks, tmp_path: Path) -> None:
    sampling, module, data = tiny_sampling(tiny), tiny_module(), tiny_data()
    trainer = tiny_trainer(tmp_path, sampling, max_epochs=1)
    trainer.validate(module, datamodule=data, verbose=False)
    first = _figures(sampling)
    trainer.validate(module, datamodule=data, verbose=False)
    assert _figures(sampling) == first
    trainer.fit(module, datamodule=data)
    # Thawed, and without gradients that sampling would have left.
    assert all(p.requires_grad and p.grad is None for p in module.network.parameters())
    assert json.loads((tmp_path / "results.json").read_text())["global_step"] == 1


def test_targets_are_the_labels_in_turn(tiny: TinyNetworks, tmp_path: Path) -> None:
    sampling = tiny_sampling(tiny, task=tiny_task(tiny, labels=[3, 7]), arms={"unguided": Arm()})
    tiny_trainer(tmp_path, sampling).validate(tiny_module(), datamodule=tiny_data(), verbose=False)
    assert isinstance(sampling.results, Results)
    task = sampling.results.task
    assert isinstance(task, ImageTask)
    assert task.targets([0, 1, 2, 5]).tolist() == [3, 7, 3, 7]


@pytest.mark.parametrize("guide", [True, False])
@pytest.mark.parametrize("noise_level", [True, False])
@pytest.mark.parametrize("predictor", [True, False])
@pytest.mark.parametrize("strong_scale", [None, 8.0])
@pytest.mark.parametrize("kappa", [None, 0.03])
def test_default_arms_are_those_the_run_has_networks_for(
    kappa: float | None, strong_scale: float | None, predictor: bool, noise_level: bool, guide: bool
) -> None:
    arms = default_arms(0.2, 1.0, kappa, 0.5, predictor, noise_level, guide, strong_scale)
    corrections = ["", *["+tag"] * predictor, *["+retiming"] * noise_level]
    short = "adaptive length" if kappa is None else "fixed length"
    processes = ["corruption", *["dps", *["strong dps"] * (strong_scale is not None), short] * guide]
    assert list(arms) == [
        "unguided",
        *(f"{process}{correction}" for process in processes for correction in corrections),
    ]
    for name, arm in arms.items():
        for tag in (entry for entry in arm.guidance if isinstance(entry, TemporalAlignment)):
            assert name.endswith("+tag")
            assert isinstance(tag.strength, ConstantStrength)
            assert tag.strength.omega == 0.5


def test_without_a_denoiser_nothing_is_sampled(tmp_path: Path) -> None:
    sampling = GuidedSampling()
    tiny_trainer(tmp_path, sampling, max_epochs=1).fit(tiny_module(), datamodule=tiny_data())
    assert sampling.results == {}
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_samples", 1), ("chunk_size", 0), ("every_n_epochs", 0), ("num_steps", 0), ("seed", -1), ("num_shown", 0)],
)
def test_impossible_settings_are_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"sampling.{name} must be at least .*, got {value}"):
        GuidedSampling(**{name: value})


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_figures(
    tiny: TinyNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no picture today")

    monkeypatch.setattr("tag_lightning.evaluation.ImageTask.pictures", fail)
    with pytest.raises(RuntimeError, match="no picture today"):
        main(predictor_arguments("validate", tmp_path, tiny))
    assert "unguided" in json.loads((tmp_path / "results.json").read_text())["arms"]
