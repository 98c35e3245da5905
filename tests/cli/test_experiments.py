"""The experiments: each can be run by its name, and those that ask for more than a class run with small networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from tiny_runs import TIMESTEPS, TinyNetworks, predictor_arguments, seeded

import tag_lightning.pretrained
from tag_lightning.cli import main
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.evaluation import Arm, ArmSampler
from tag_lightning.networks import NoiseLevelCNN
from tag_lightning.pretrained import save_pretrained

FOLDER = Path(__file__).parents[2] / "configs" / "experiments"
# Their time predictors are trained first, by the command in the file.
TRAINED_FIRST = {
    "conditional_predictors",
    "molecules_corrections",
    "predictor_architecture",
    "predictor_depth",
    "predictor_training",
}
EXPERIMENTS = sorted({path.stem for path in FOLDER.glob("*.yaml")} - TRAINED_FIRST)
# A shipped network that can stand where the trained one would, by experiment.
STAND_INS = {
    "conditional_predictors": "digits/time_predictor",
    "molecules_corrections": "molecules/time_predictor",
    "predictor_architecture": "digits/time_predictor",
}

METRICS = (
    "--sampling.task.init_args.metrics=[{class_path: KID}, {class_path: InceptionScore}, "
    "{class_path: FID, init_args: {name: child_fid, asked_classes_only: true}}]"
)


def experiment(name: str, arguments: list[str]) -> list[str]:
    """The command line with the configuration first, so that the small networks take the place of its own."""
    verb, *rest = arguments
    unknown = (
        ("--sampling.task=", "--sampling.task.init_args.guide=") if name == "restoration" else ("--sampling.task=",)
    )
    known = [argument for argument in rest if not argument.startswith(unknown)]
    # The shipped regressor of the noise level belongs to another schedule than theirs.
    return [verb, f"--config=experiments/{name}", "--sampling.noise_level=null", *known]


def arms_of(run: Path) -> dict[str, dict[str, float]]:
    return json.loads((run / "results.json").read_text())["arms"]


def few_molecules(name: str) -> list[str]:
    """What keeps the experiments on molecules from embedding thousands of them."""
    return ["--data.init_args.max_heavy_atoms=3"] if name.startswith("molecules") else []


class ChecksPassedError(Exception):
    """Raised once all arms of an experiment were found possible."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Arm]:
    """The arms that a command asks for; it ends with ``ChecksPassedError`` once all were found possible."""
    check, arms_asked = ArmSampler.require_possible, dict[str, Arm]()

    def check_and_stop(sampler: ArmSampler, arms: Mapping[str, Arm], measured: bool = True) -> None:
        check(sampler, arms)
        arms_asked.update(arms)
        raise ChecksPassedError

    monkeypatch.setattr(ArmSampler, "require_possible", check_and_stop)
    return arms_asked


@pytest.mark.filterwarnings("ignore:lpips is left out")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_arm_of_an_experiment_is_possible_with_the_shipped_networks(
    name: str, tmp_path: Path, asked: dict[str, Arm]
) -> None:
    folder = f"--trainer.default_root_dir={tmp_path}"
    with pytest.raises(ChecksPassedError):
        main(["validate", "--config", f"experiments/{name}", "--trainer.accelerator=cpu", folder, *few_molecules(name)])
    assert len(asked) > 1


@pytest.mark.parametrize("data", ["cifar10_small", "qm9_small"])
@pytest.mark.parametrize("name", ["corrections", "corruption", "dps_strength", "few_steps", "guidance", "strengths"])
def test_the_papers_experiments_are_possible_on_other_data(
    name: str, data: str, tmp_path: Path, asked: dict[str, Arm]
) -> None:
    command = ["validate", f"--config={data}/comparison", f"--config=experiments/{name}", "--sampling.extra_arms={}"]
    with pytest.raises(ChecksPassedError):
        main([*command, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"])
    assert len(asked) > 1


@pytest.mark.parametrize("name", sorted(STAND_INS))
def test_every_arm_is_possible_once_its_predictor_is_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Arm]
) -> None:
    arms = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["sampling"]["arms"]
    for trained in {arm["predictor"] for arm in arms.values() if "predictor" in arm}:
        shutil.copytree(Path(tag_lightning.pretrained.__file__).parent / STAND_INS[name], tmp_path / trained)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChecksPassedError):
        main(["validate", f"--config=experiments/{name}", "--trainer.accelerator=cpu", *few_molecules(name)])
    assert len(asked) > 1


@pytest.mark.parametrize("name", sorted(TRAINED_FIRST))
def test_predictors_that_were_not_trained_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "python -m tag_lightning fit --config " in (FOLDER / f"{name}.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["validate", f"--config=experiments/{name}", "--trainer.accelerator=cpu", *few_molecules(name)])
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"no network under runs/experiments/{name}/" in error


def test_a_class_and_a_hue_at_once_with_a_single_condition_predictor(tiny: TinyNetworks, tmp_path: Path) -> None:
    more = ["--sampling.num_samples=6", METRICS]
    conditions = "--model.init_args.network.init_args.conditions={hue: 8}"
    main(experiment("multi_condition", predictor_arguments("validate", tmp_path, tiny, *more, conditions)))
    arms = arms_of(tmp_path)
    assert len(arms) == 9
    figures = arms["both+tag after label"]
    assert figures.keys() >= {"accuracy", "accuracy_hue", "accuracy_all", "kid", "inception_score_judge", "child_fid"}
    assert figures != arms["both+tag"]


@pytest.mark.filterwarnings("ignore:lpips is left out")
@pytest.mark.parametrize("operator", [None, pytest.param("Inpainting", marks=pytest.mark.slow)])
def test_restoration_by_the_operator_of_choice(operator: str | None, tiny: TinyNetworks, tmp_path: Path) -> None:
    level = seeded(lambda: NoiseLevelCNN(3, TIMESTEPS, widths=(4, 4)), 4)
    save_pretrained(tmp_path / "noise_level", level, LinearSchedule(num_timesteps=TIMESTEPS))
    more = ["--sampling.num_samples=6", f"--sampling.noise_level={tmp_path / 'noise_level'}"]
    more += [] if operator is None else [f"--sampling.task.measurement={operator}"]
    main(experiment("restoration", predictor_arguments("validate", tmp_path, tiny, *more)))
    arms = arms_of(tmp_path)
    assert arms["fixed length"]["psnr"] > arms["unguided"]["psnr"]
    assert (tmp_path / "arms.png").is_file() or list(tmp_path.rglob("arms.png"))


def test_images_that_an_operator_cannot_measure_are_refused(
    tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = "--sampling.task.measurement={class_path: SuperResolution, init_args: {factor: 3}}"
    with pytest.raises(SystemExit):
        main(experiment("restoration", predictor_arguments("validate", tmp_path, tiny, operator)))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "sampling.task.init_args.measurement SuperResolution: factor 3 does not divide the height and width" in error
