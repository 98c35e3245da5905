"""Modules that a command loads before it does anything: most of the time until its first output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"lightning", "torchmetrics", "torchvision", "diffusers", "rdkit", "matplotlib", "sklearn", "scipy"}
_LOADED = """
import json, runpy, sys
sys.argv = ["tag_lightning", *sys.argv[1:]]
try:
    runpy.run_module("tag_lightning", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return set(json.loads(finished.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], [], ["stages", "--help"], ["stages", "--config=lost"]])
def test_help_and_the_verb_over_all_stages_load_no_torch(arguments: list[str]) -> None:
    assert not loaded(_LOADED, *arguments) & {*HEAVY, "torch"}


def test_the_list_of_guidance_loads_no_lightning() -> None:
    assert not loaded(_LOADED, "arms") & HEAVY


@pytest.mark.slow  # loads Lightning once more
def test_the_command_line_loads_nothing_that_only_some_data_and_figures_need() -> None:
    code = "import json, sys, tag_lightning.cli; print(json.dumps(list(sys.modules)))"
    assert not loaded(code) & {"sklearn", "pandas", "tblite", "fcd_torch", "tensorboard"}
