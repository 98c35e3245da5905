"""Every public class that a configuration can hold goes by its short name."""

from __future__ import annotations

import inspect

import pytest
from jsonargparse import ArgumentParser
from lightning import Callback, LightningDataModule, LightningModule
from torch import nn

import tag_lightning
from tag_lightning.class_names import PACKAGES, public_classes
from tag_lightning.diffusion import Solver
from tag_lightning.guidance import Guidance, Strength
from tag_lightning.measurements import Measurement

PUBLIC = public_classes()
# What settings are declared as: a network, for instance, is any nn.Module.
DECLARED = (LightningDataModule, LightningModule, Callback, Measurement, nn.Module)


def base_of(cls: type) -> type:
    """The type of the settings that take ``cls``: one of Lightning's, or the root of a family of ours."""
    family = [parent for parent in cls.__mro__ if parent in PUBLIC.values()]
    return next((base for base in DECLARED if issubclass(cls, base)), family[-1])


CONFIGURABLE = sorted(name for name, cls in PUBLIC.items() if base_of(cls) is not cls and not inspect.isabstract(cls))


def test_every_kind_is_there() -> None:
    assert {*DECLARED, Guidance, Solver, Strength} <= {base_of(PUBLIC[name]) for name in CONFIGURABLE}


def test_a_name_means_one_class() -> None:
    for name, cls in PUBLIC.items():
        named = [getattr(package, name) for package in PACKAGES if hasattr(package, name)]
        assert all(other is cls for other in named), name


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_a_short_name_finds_its_class(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cls = PUBLIC[name]
    parser = ArgumentParser()
    parser.add_subclass_arguments(base_of(cls), "kind")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f"--kind.help={name}"])
    assert stop.value.code == 0
    # The eight names that the package itself exports are shown by that shorter path.
    path = f"tag_lightning.{name}" if name in tag_lightning.__all__ else f"tag_lightning.{_room(cls)}.{name}"
    assert path in capsys.readouterr().out


def _room(cls: type) -> str:
    return cls.__module__.split(".")[1]
