"""The names that people import from the package itself."""

import subprocess
import sys

import pytest

import tag_lightning


def test_every_exported_name_is_the_object_of_its_room() -> None:
    from tag_lightning import DDIM, DPS, Condition, Denoiser, Sampler, TemporalAlignment, compare, load_pretrained

    assert {DDIM, DPS, Condition, Denoiser, Sampler, TemporalAlignment, compare, load_pretrained} == {
        getattr(tag_lightning, name) for name in tag_lightning.__all__
    }
    assert set(tag_lightning.__all__) <= set(dir(tag_lightning))


def test_importing_the_package_alone_loads_neither_torch_nor_lightning() -> None:
    code = "import sys, tag_lightning; print(sorted({'torch', 'lightning', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_other_names_are_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Sampel'"):
        tag_lightning.Sampel  # noqa: B018
