"""Every public class that a configuration can hold goes by its short name."""

from __future__ import annotations

import inspect

import pytest
from jsonargparse import ArgumentParser
from lightning import Callback, LightningDataModule, LightningModule
from torch import nn

from tag_lightning.class_names import PACKAGES, public_classes
from tag_lightning.diffusion import NoiseSchedule, Solver
from tag_lightning.guidance import Guidance, Strength

# What settings are declared as, from special to general: every network is an nn.Module there.
BASES = (LightningDataModule, LightningModule, Callback, NoiseSchedule, Solver, Guidance, Strength, nn.Module)


def base_of(cls: type) -> type | None:
    return next((base for base in BASES if issubclass(cls, base)), None)


CLASSES = sorted(name for name, cls in public_classes().items() if base_of(cls) and not inspect.isabstract(cls))


def test_every_kind_is_there() -> None:
    assert {base_of(public_classes()[name]) for name in CLASSES} == set(BASES)


def test_a_name_means_one_class() -> None:
    for name, cls in public_classes().items():
        named = [getattr(package, name) for package in PACKAGES if hasattr(package, name)]
        assert all(other is cls for other in named), name


@pytest.mark.parametrize("name", CLASSES)
def test_a_short_name_finds_its_class(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cls = public_classes()[name]
    parser = ArgumentParser()
    parser.add_subclass_arguments(base_of(cls), "kind")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f"--kind.help={name}"])
    assert stop.value.code == 0
    assert f"tag_lightning.{cls.__module__.split('.')[1]}.{name}" in capsys.readouterr().out
