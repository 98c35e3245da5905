"""The list of guidance says what the code is and what the documents say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tag_lightning.diffusion import Guidance
from tag_lightning.guidance import DPS, GuidanceWrapper, TemporalAlignment
from tag_lightning.guidance_list import description, main, shipped

METHODS = Path(__file__).parents[2] / "docs" / "methods.md"


def documented() -> dict[str, str]:
    """The cost by class that the table of docs/methods.md states, in the form of ``Guidance.cost``."""
    costs = {}
    for line in METHODS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or not cells[0].startswith("`"):
            continue
        _, _, denoiser, others, _ = cells
        cost = denoiser if denoiser == others else f"denoiser {denoiser}" + (f", {others}" if others else "")
        costs |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cost)
    return costs


def test_the_documents_have_all_guidance_and_no_other() -> None:
    assert sorted(documented()) == sorted(guidance.__name__ for guidance in shipped())


@pytest.mark.parametrize("guidance", shipped(), ids=lambda guidance: guidance.__name__)
def test_the_documents_state_the_cost_of_the_class(guidance: type[Guidance]) -> None:
    stated = documented()[guidance.__name__]
    assert guidance.cost == stated, f'docs/methods.md says otherwise; give {guidance.__name__}: cost = "{stated}"'


@pytest.mark.parametrize("guidance", shipped(), ids=lambda guidance: guidance.__name__)
def test_every_guidance_has_a_line_a_cost_and_its_parameters(guidance: type[Guidance]) -> None:
    name, line, *_ = description(guidance).splitlines()
    assert name == guidance.__name__
    assert len(line.strip()) > 20
    assert {"start", "stop"} < guidance.parameters().keys()
    required = [one.name for one in guidance.parameters().values() if one.default is one.empty]
    assert ("guidance" in required) == issubclass(guidance, GuidanceWrapper)


def test_a_description_in_full() -> None:
    assert description(DPS).splitlines() == [
        "DPS",
        "  Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, Algorithm 1), as in the TFG family.",
        f"  Cost: {DPS.cost}",
        "  Parameters: condition=null, scale=1.0, clip=null, guide_clipped=false, start=null, stop=null",
    ]


def test_defaults_are_written_as_a_user_would_write_them() -> None:
    assert "strength=PolyakStrength()" in description(TemporalAlignment)
    assert not [guidance.__name__ for guidance in shipped() if " at 0x" in " ".join(description(guidance).split())]


def test_the_list_names_every_class(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert all(f"\n\n{guidance.__name__}\n" in printed for guidance in shipped())


def test_the_command_line_lists_without_loading_lightning() -> None:
    code = (
        "import runpy, sys; sys.argv = ['tag_lightning', 'arms']; "
        "runpy.run_module('tag_lightning', run_name='__main__', alter_sys=False); "
        "print(sorted({'lightning', 'diffusers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "\nDPS\n" in out
    assert out.endswith("\n[]\n")
