"""Many molecules: the same results on any number of workers, None for failures, crashes contained."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from geometries import geometry
from numpy.typing import ArrayLike

from tag_lightning.chemistry import is_available, xtb_many, xtb_pool, xtb_properties
from tag_lightning.progress import Progress

pytestmark = pytest.mark.skipif(not is_available(), reason="needs tblite")
FATAL = 99


def dies_of_one_element(numbers: np.ndarray, positions: np.ndarray, what: tuple[str, ...]) -> dict[str, float]:
    """Stands in for a crash of the library."""
    if FATAL in numbers:
        os._exit(1)
    return {"energy": float(numbers.sum())}


def test_any_number_of_workers_gives_the_results_of_none() -> None:
    molecules: list[tuple[ArrayLike, ArrayLike]] = [
        geometry(name) for name in ("water", "methane", "ethene", "formaldehyde")
    ]
    molecules.insert(1, ([6, 6], np.zeros((2, 3))))
    what = ["alpha", "energy", "relaxation_energy"]
    one, two = (xtb_many(molecules, workers, what) for workers in (1, 2))
    assert one == two
    assert one[1] is None
    for molecule, found in zip(molecules, one, strict=True):
        if found is not None:
            assert found == pytest.approx(xtb_properties(*molecule, what), abs=1e-6)


def test_a_molecule_that_kills_its_process_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(xtb_pool, "_properties_or_none", dies_of_one_element)
    monkeypatch.setattr(xtb_pool, "Progress", partial(Progress, every_seconds=0.0))
    numbers = [FATAL if k == 10 else k + 1 for k in range(51)]
    found = xtb_many([([n], np.zeros((1, 3))) for n in numbers], 1, ["energy"])
    assert found == [None if n == FATAL else {"energy": float(n)} for n in numbers]
    shown = capfd.readouterr().out.splitlines()
    assert len(shown) == 52
    assert shown[-1].startswith("GFN2-xTB: 51 molecules in ")


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tag_lightning.chemistry import xtb_many\nprint(xtb_many([([1, 1], [[0, 0, 0], [0, 0, 0.74]])]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 1
    assert 'if __name__ == "__main__":' in run.stderr.splitlines()[-1]
