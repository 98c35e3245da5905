"""Configurations by path and by name, on every verb and inside other configurations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tag_lightning.cli import main
from tag_lightning.config_files import ConfigFileError, config_file, merged_with_bases, shipped_configs

CONFIGS = Path(__file__).parents[2] / "configs"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The configuration that a command line results in."""
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_every_shipped_configuration_has_a_name() -> None:
    shipped = shipped_configs()
    assert {path.resolve() for path in shipped.values()} == set(CONFIGS.rglob("*.yaml"))
    assert shipped["digits/time_predictor"].resolve() == CONFIGS / "digits" / "time_predictor.yaml"


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_name_stands_for_the_shipped_file(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by_path = printed(capsys, verb, f"--config={CONFIGS / 'digits' / 'guide.yaml'}")
    monkeypatch.chdir(tmp_path)
    assert printed(capsys, verb, "--config", "digits/guide") == by_path
    assert by_path["trainer"]["default_root_dir"] == "runs/digits/guide"


def test_several_configurations_and_one_inside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inner").mkdir()
    # With jsonargparse, a section of the outer file would replace the inner one's, so a single key is given.
    (tmp_path / "inner" / "mine.yaml").write_text("config: cifar10/judge\ntrainer.max_steps: 7\n")
    monkeypatch.chdir(tmp_path)
    text = "{data: {init_args: {batch_size: 5}}}"
    config = printed(capsys, "fit", "-c", "inner/mine.yaml", "--config=cifar10/short", "--config", text)
    assert config["trainer"]["max_steps"] == 7
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["trainer"]["default_root_dir"] == "runs/cifar10/judge"
    assert config["data"]["init_args"]["batch_size"] == 5
    # Later ones win, however they are given.
    assert printed(capsys, "fit", "-cinner/mine.yaml", "--config=cifar10/judge")["trainer"]["max_steps"] == 20000


def test_a_configuration_is_laid_over_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layered = tmp_path / "mine.yaml"
    layered.write_text("base: experiments/bounded_steps\nsampling: {num_steps: 7, arms: {unguided: {}}}\n")
    (tmp_path / "outer.yaml").write_text(f"base: {layered}\nsampling: {{seed: 3}}\n")
    config = printed(capsys, "fit", f"--config={tmp_path / 'outer.yaml'}", "--sampling.num_shown=5")
    sampling = config["sampling"]
    assert (sampling["seed"], sampling["num_steps"], sampling["num_shown"]) == (3, 7, 5)
    assert sampling["num_samples"] == 256
    assert list(sampling["arms"]) == ["unguided"]
    assert "base" not in config


def test_another_configuration_takes_the_place_of_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layered = tmp_path / "mine.yaml"
    layered.write_text("base: digits/time_predictor\nsampling: {num_steps: 7}\n")
    config = printed(capsys, "fit", "--config=cifar10/time_predictor", f"--config={layered}")
    assert config["data"]["class_path"] == "tag_lightning.datamodules.CIFAR10DataModule"
    assert config["sampling"]["num_steps"] == 7


def test_later_bases_are_laid_over_earlier_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layered = tmp_path / "mine.yaml"
    layered.write_text("base: [cifar10/guide, cifar10/image_folder]\ntrainer: {max_steps: 7}\n")
    config = printed(capsys, "fit", f"--config={layered}")
    assert config["data"]["class_path"] == "tag_lightning.datamodules.ImageFolderDataModule"
    settings = config["data"]["init_args"]
    assert (settings["half"], settings["root"], config["trainer"]["max_steps"]) == ("first", "data/cifar10", 7)
    merged = merged_with_bases(layered)
    assert merged["data"]["init_args"] == {"half": "first", "root": "data/cifar10", "mirror": True}
    assert merged["model"]["class_path"] == "PropertyModule"
    assert merged["trainer"]["max_steps"] == 7
    assert "base" not in merged


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("base: 5\n", "base is 5; name a configuration, or a list of them"),
        ("base: [digits/guide, digits/guid]\n", "digits/guid is neither a file nor the name of a shipped"),
        ("base: digits/guid\n", "digits/guid is neither a file nor the name of a shipped configuration (did you mean"),
        ("base: {path}\n", "leads back to itself; name another configuration"),
        ("base: digits/guide\nmodle: 5\n", "'modle'"),
    ],
)
def test_mistakes_in_a_layered_configuration(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text.format(path=path))
    with pytest.raises(SystemExit):
        main(["fit", f"--config={path}"])
    message = capsys.readouterr().err
    assert named in message
    assert "Traceback" not in message


def test_a_file_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(shipped_configs()["digits/guide"])
    assert config_file("digits/guide") == shipped
    (tmp_path / "digits" / "guide").mkdir(parents=True)  # no file
    assert config_file("digits/guide") == shipped
    (tmp_path / "digits" / "guide").rmdir()
    (tmp_path / "digits" / "guide").write_text("trainer: {max_steps: 3}")
    assert config_file("digits/guide") == "digits/guide"


@pytest.mark.parametrize("value", ["-", "s3://bucket/a.yaml", "{trainer: {max_steps: 3}}", "a: 1\nb: 2", ["parsed"]])
def test_what_is_not_a_name_is_left_to_jsonargparse(value: object) -> None:
    assert config_file(value) == value


def test_a_pipe_is_not_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert config_file(str(tmp_path / "pipe")) == str(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("digits/time_predicto", r"digits/time_predicto is neither .*\(did you mean digits/time_predictor "),
        ("configs/qm9/guide.yaml", r"configs/qm9/guide\.yaml is neither .*\(did you mean .*\bqm9/guide\b"),
        (
            "nothing_like_it",
            r"neither a file nor the name of a shipped configuration; give the path of a YAML file, or a name",
        ),
        ("x" * 5000, "xxx is neither"),
    ],
)
def test_a_wrong_name(value: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigFileError, match=named):
        config_file(value)


@pytest.mark.parametrize("base", ["base: experiments/weak_denoiser\n", ""])
def test_an_arm_of_a_later_file_takes_nothing_of_an_earlier_one_of_its_name(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = tmp_path / "layer.yaml"
    layer.write_text(f"{base}sampling: {{arms: {{adaptive length: {{num_steps: 7}}}}}}\n")
    first = [] if base else ["--config=experiments/weak_denoiser"]
    (arm,) = printed(capsys, "validate", *first, f"--config={layer}")["sampling"]["arms"].values()
    assert (arm["num_steps"], arm["sweep"], arm["guidance"]) == (7, None, [])


def test_published_figures_are_of_arms_that_exist() -> None:
    found = 0
    for path in shipped_configs().values():
        sampling = merged_with_bases(path).get("sampling", {})
        arms = sampling.get("arms") or {}
        names = {name for name, arm in arms.items() if "sweep" not in arm}
        for name, arm in arms.items():
            names |= {f"{name} {key}={value}" for key, values in arm.get("sweep", {}).items() for value in values}
        for figures in (sampling.get("published") or {}).values():
            assert figures.keys() <= names, path
            found += len(figures)
    assert found >= 40


@pytest.mark.parametrize("data", ["cifar10/time_predictor", "cifar10_small/comparison", "cifar10_small/published"])
def test_published_figures_of_cifar10_are_found_however_it_is_read(data: str) -> None:
    folder = config_file(data)
    layers = [merged_with_bases(folder), merged_with_bases(config_file("experiments/few_steps"))]
    dataset = layers[0]["sampling"].get("dataset") or layers[0]["data"]["class_path"].removesuffix("DataModule")
    assert dataset in layers[1]["sampling"]["published"]
