"""The configurations as files: what each must hold so that its run ends as the README says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

import tag_lightning.datamodules
from tag_lightning.callbacks import GuidedSampling
from tag_lightning.config_files import merged_with_bases
from tag_lightning.diffusion.arguments import Rebuildable
from tag_lightning.evaluation import Arm
from tag_lightning.pretrained import load_pretrained

CONFIGS = Path("configs")
MAIN_JOBS = sorted(CONFIGS.glob("*/time_predictor.yaml"))
STAGES = sorted(path for path in CONFIGS.glob("*/*.yaml") if "model" in yaml.safe_load(path.read_text()))


def read(path: Path) -> dict:
    return merged_with_bases(path)


def test_published_figures_belong_to_data_modules_and_to_arms_that_exist() -> None:
    found = Counter[str]()
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        sampling = read(path).get("sampling", {})
        for dataset, rows in (sampling.get("published") or {}).items():
            named = dataset == sampling.get("dataset")
            assert named or hasattr(tag_lightning.datamodules, f"{dataset}DataModule"), path
            curves = {re.sub(r" \w+=[\d.]+$", "", arm) for arm in rows}
            assert curves <= sampling["arms"].keys(), path
            found[dataset] += 1
    assert found.keys() == {"CIFAR10", "ImageNet", "QM9", "Mixture"}


def test_there_are_main_jobs() -> None:
    own = {
        "audio",
        "cifar10",
        "cifar10_small",
        "digits",
        "latent_digits",
        "molecules",
        "my_audio",
        "my_images",
        "my_molecules",
        "qm9",
        "qm9_small",
        "toy",
    }
    assert {path.parent.name for path in MAIN_JOBS} == own | {"cat", "celebahq", "imagenet"}


@pytest.mark.parametrize("path", MAIN_JOBS, ids=str)
def test_the_last_epoch_of_a_main_job_is_validated_and_sampled(path: Path) -> None:
    # An epoch that `max_steps` cuts short is not validated, and a run without its last sampling has no results.
    trainer = read(path)["trainer"]
    if "max_steps" in trainer:  # validated by steps, across epochs
        assert trainer["check_val_every_n_epoch"] is None
        assert trainer["max_steps"] % trainer["val_check_interval"] == 0
        return
    assert trainer["max_epochs"] % trainer.get("check_val_every_n_epoch", 1) == 0


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_a_stage_has_a_folder_of_its_own_named_after_it(path: Path) -> None:
    assert read(path)["trainer"]["default_root_dir"] == f"runs/{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_a_schedule_of_the_learning_rate_is_as_long_as_the_run(path: Path) -> None:
    config = read(path)
    settings = config["model"]["init_args"].get("lr_scheduler", {}).get("init_args", {})
    trainer = config["trainer"]
    if "total_steps" in settings and "max_steps" in trainer:
        assert settings["total_steps"] == trainer["max_steps"]
    elif "total_steps" in settings:  # whole epochs; the module refuses a run that is longer
        assert settings["total_steps"] % trainer["max_epochs"] == 0


def arms_of(experiment: str) -> dict[str, Arm]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GuidedSampling, "sampling")
    parsed = parser.parse_object({"sampling": read(CONFIGS / "experiments" / f"{experiment}.yaml")["sampling"]})
    return parser.instantiate(parsed).sampling.arms


def curves(arms: dict[str, Arm]) -> dict[str, int]:
    return Counter(arm.point.curve for arm in arms.values() if arm.point is not None)


def test_the_frontier_of_the_digits_has_its_curves() -> None:
    arms = arms_of("frontier")
    scales = dict.fromkeys(["dps", "dps+tag", "dps+retiming"], 7)
    assert curves(arms) == scales | dict.fromkeys(["fixed length", "fixed length+tag", "mpgd", "adam"], 4)
    assert arms["adam scale=0.068"].guidance[0].guidance.scale == 0.068


@pytest.mark.parametrize("experiment", ["recurrence", "weak_denoiser", "molecules_guidance"])
def test_arms_that_take_every_step_twice_differ_in_nothing_else(experiment: str) -> None:
    arms = arms_of(experiment)
    once = {name: arm for name, arm in arms.items() if " twice" not in name}
    twice = {name: arm for name, arm in arms.items() if " twice" in name}
    assert "unguided twice" in twice
    for name, arm in twice.items():
        assert (arm.recurrence, arm.num_steps) == (2, None)
        alone = name.replace(" twice", "")
        if name == "fixed length twice+noise awareness":  # whose scale was tuned for it
            assert alone not in once
            continue
        partner = once.get(alone) or once[f"{alone} kappa=0.03"]
        assert (partner.recurrence, partner.num_steps) == (None, None)
        assert described(arm.guidance) == described(partner.guidance)


def described(value: Any) -> Any:
    """Guidance as its classes and the arguments of their constructors."""
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    if isinstance(value, Rebuildable):
        return type(value), {name: described(each) for name, each in value.arguments.items()}
    return value


def test_the_frontier_of_the_molecules_has_its_curves() -> None:
    arms = arms_of("molecules_frontier")
    lengths = {"dps": 3, "trust region": 4}
    corrections = ("", "+tag", "+tag types")
    expected = {name + correction: length for name, length in lengths.items() for correction in corrections}
    assert curves(arms) == expected | {"gentle region": 3, "gentle region+tag": 3}
    assert arms["trust region+tag types kappa=0.2"].guidance[1].kappa == 0.2
    assert arms["dps+tag types scale=0.3"].predictor == "molecules/time_gap_predictor"
    assert arms["dps+tag scale=0.7"].guidance[1].clip == 0.1


def test_the_experiments_on_molecules_have_the_network_of_their_checkpoint() -> None:
    config = read(CONFIGS / "experiments" / "molecules.yaml")
    settings = config["model"]["init_args"]["network"]["init_args"]
    network = load_pretrained(config["ckpt_path"]).network
    assert settings == {name: network.config[name] for name in settings}
    assert settings.keys() >= {"width", "num_layers"}


@pytest.mark.parametrize("experiment", ["molecules_frontier", "molecules_retiming"])
def test_bounded_steps_on_molecules_guide_a_property(experiment: str) -> None:
    guided = [arm.guidance[-1] for name, arm in arms_of(experiment).items() if name.startswith("trust region")]
    assert {guidance.guidance.condition for guidance in guided} == {"alpha"}
