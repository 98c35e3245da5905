"""Options of the data modules: subclasses have those of their base, with its types and their own defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from tag_lightning import datamodules
from tag_lightning.cli import main
from tag_lightning.datamodules import (
    AudioDataModule,
    GuidedTrajectoriesDataModule,
    ImageDataModule,
    LatentDataModule,
    MixtureDataModule,
    MoleculeDataModule,
)
from tag_lightning.datamodules.base import TableDataModule
from tag_lightning.datamodules.statistics import StatisticsDataModule

MODULES = [
    getattr(datamodules, name)
    for name in datamodules.__all__
    if issubclass(getattr(datamodules, name), TableDataModule)
]
# Defaults that differ from the base's.
OWN: dict[str, dict[str, Any]] = {
    "CIFAR10DataModule": {"batch_size": 128},
    "ImageFolderDataModule": {"batch_size": 128},
    "MixtureDataModule": {"batch_size": 512},
    "QM9DataModule": {"properties": ("alpha", "mu", "cv", "homo", "lumo", "gap")},
}
SHARED = {"batch_size": "int", "num_workers": "int", "seed": "int"}
KINDS: dict[type, dict[str, Any]] = {
    AudioDataModule: {"batch_size": 32},
    ImageDataModule: {"batch_size": 256, "half": None},
    MoleculeDataModule: {
        "batch_size": 64,
        "half": None,
        "properties": ("alpha", "mu"),
        "elements": ("H", "C", "N", "O", "F"),
        "max_atoms": None,
        "cache": "data/molecules",
    },
    MixtureDataModule: {},
    LatentDataModule: {"batch_size": 128},
    GuidedTrajectoriesDataModule: {"batch_size": 64},
    StatisticsDataModule: {"batch_size": 64},
}


def options(cls: type) -> dict[str, Any]:
    parser = ArgumentParser()
    parser.add_class_arguments(cls, "data")
    return {action.dest.removeprefix("data."): action for action in parser._actions if action.dest.startswith("data.")}


@pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
def test_options_include_those_of_the_base_with_help_types_and_defaults(cls: type) -> None:
    (kind,) = (kind for kind in KINDS if issubclass(cls, kind))
    found = options(cls)
    expected = {"num_workers": 0, "seed": 0} | KINDS[kind] | OWN.get(cls.__name__, {})
    assert {name: found[name].default for name in expected} == expected
    assert {name: found[name]._typehint.__name__ for name in SHARED} == SHARED
    assert all(action.help for action in found.values())
    assert list(inspect.signature(cls).parameters)[-1] == "kwargs"  # so that nothing of the base is repeated


def test_the_command_line_takes_options_of_the_base(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config=configs/digits/guide.yaml", "--data.init_args.half=second", "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert printed["half"] == "second"
    assert printed.keys() == {"size", "tinted", "batch_size", "half", "num_workers", "seed"}


@pytest.mark.parametrize("given", ["half=third", "batch_size=many", "num_workers=1.5", "halve=first"])
def test_values_and_names_that_the_base_lacks_are_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config=configs/digits/guide.yaml", f"--data.init_args.{given}"])
    assert stop.value.code == 2
    assert given.split("=")[0] in capsys.readouterr().err
