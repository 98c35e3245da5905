"""GFN2-xTB against finite differences, published behaviour and labels made elsewhere."""

import math
import sys

import numpy as np
import pytest
import torch
from geometries import ARCHIVE, archive_molecules, geometry

from tag_lightning.chemistry import (
    XTB_PROPERTIES,
    XTBError,
    is_available,
    relaxation_energy,
    xtb,
    xtb_many,
    xtb_properties,
)

needs_tblite = pytest.mark.skipif(not is_available(), reason="needs tblite")
HARTREE_IN_EV = 27.2114


@needs_tblite
def test_water() -> None:
    """About 2.2 debye is known of GFN2; the energy holds tblite 0.8.0's own to what it was."""
    found = xtb_properties(*geometry("water"), XTB_PROPERTIES)
    assert list(found) == list(XTB_PROPERTIES)
    assert found["energy"] == pytest.approx(-5.0704, abs=1e-4)
    assert found["mu"] == pytest.approx(2.27, abs=0.05)
    assert found["gap"] == pytest.approx(found["lumo"] - found["homo"])
    assert 0 < found["relaxation_energy"] < 1


@needs_tblite
def test_the_field_acts_as_the_derivative_of_the_energy_says() -> None:
    """dE/dF = -mu and d2E/dF2 = -alpha, so the field arrives in its unit, direction and sign."""
    numbers, positions = geometry("formaldehyde")
    atoms, places = xtb._bare(numbers, positions)
    step = 2e-3
    free = xtb._run(atoms, places)
    slope, curvature = np.zeros(3), np.zeros(3)
    for axis in range(3):
        up, down = (float(xtb._run(atoms, places, sign * step * np.eye(3)[axis])["energy"]) for sign in (1, -1))
        slope[axis] = (up - down) / (2 * step)
        curvature[axis] = (up + down - 2 * float(free["energy"])) / step**2
    np.testing.assert_allclose(slope, -free["dipole"], atol=2e-4)
    assert -curvature.mean() == pytest.approx(xtb_properties(numbers, positions, ["alpha"])["alpha"], rel=2e-3)


@needs_tblite
def test_the_largest_force_is_the_slope_of_the_energy() -> None:
    numbers, positions = geometry("hydrogen fluoride")
    step = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1e-3]])
    up, down = (xtb_properties(numbers, positions + sign * step)["energy"] for sign in (1, -1))
    slope = (up - down) / (2e-3 / 0.529177210903)
    assert xtb_properties(numbers, positions)["max_force"] == pytest.approx(abs(slope), rel=1e-3)


@needs_tblite
def test_symmetry_and_place() -> None:
    numbers, positions = geometry("methane")
    found = xtb_properties(numbers, positions, ["mu", "alpha", "energy"])
    assert found["mu"] < 1e-6
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    moved = xtb_properties(
        torch.cat([numbers, torch.zeros(2, dtype=torch.long)]),
        torch.cat([positions @ rotation.T + 3.0, torch.full((2, 3), math.nan)]),
        ["energy", "alpha", "mu"],
    )
    assert moved["energy"] == pytest.approx(found["energy"], abs=1e-8)
    assert moved["alpha"] == pytest.approx(found["alpha"], abs=1e-3)


@needs_tblite
def test_relaxation_goes_down_to_a_minimum_and_no_further() -> None:
    numbers, positions = geometry("water")
    stretched = positions.clone()
    stretched[1] *= 1.15
    assert relaxation_energy(numbers, stretched) > relaxation_energy(numbers, positions) + 2
    two = torch.tensor([1, 1])

    def bond(length: float) -> torch.Tensor:
        return torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, length]], dtype=torch.float64)

    energies = [xtb_properties(two, bond(length))["energy"] for length in np.linspace(0.7, 0.85, 301)]
    scanned = (xtb_properties(two, bond(1.0))["energy"] - min(energies)) * 627.509474
    assert relaxation_energy(two, bond(1.0)) == pytest.approx(scanned, abs=0.01)


@needs_tblite
@pytest.mark.parametrize(
    ("numbers", "positions", "message"),
    [
        ([6, 6], [[0, 0, 0], [0, 0, 0]], "Too close"),
        ([6, 8], [[0, 0, 0], [0, 0, 50]], "not converged"),
        ([6, 8], [[0, 0, 0], [0, 0, math.nan]], "not finite"),
        ([200], [[0, 0, 0]], "No support for elements"),
        ([0], [[0, 0, 0]], "no atoms"),
    ],
)
def test_failures_are_one_kind_of_error_and_no_energy(
    numbers: list[int], positions: list[list[float]], message: str
) -> None:
    with pytest.raises(XTBError, match=message):
        xtb_properties(numbers, positions)
    assert math.isnan(relaxation_energy(numbers, positions))


@needs_tblite
def test_open_shells_and_lone_atoms_have_what_there_is() -> None:
    numbers, positions = geometry("methane")
    radical = xtb_properties(numbers[:4], positions[:4])
    assert radical["homo"] < radical["lumo"]
    assert math.isnan(xtb_properties([1], [[0, 0, 0]])["gap"])


@needs_tblite
def test_wrong_requests_say_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"does not compute zpve; expected names from mu, homo"):
        xtb_properties(*geometry("water"), ["mu", "zpve"])
    with pytest.raises(ValueError, match=r"\[1, 3\] and positions \[1, 3, 3\]"):
        xtb_properties(*(tensor[None] for tensor in geometry("water")))
    with pytest.raises(ValueError, match="workers is 0"):
        xtb_many([], workers=0)


def test_without_tblite_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    assert not is_available()
    for call in (lambda: xtb_properties([1, 1], [[0, 0, 0], [0, 0, 1]]), lambda: xtb_many([])):
        with pytest.raises(ImportError, match=r"pip install tag_lightning\[physics\]"):
            call()
    with pytest.raises(ImportError, match="physics"):
        relaxation_energy([1, 1], [[0, 0, 0], [0, 0, 1]])


@needs_tblite
@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs the archive of molecules")
def test_labels_made_elsewhere_are_met() -> None:
    """Up to the four decimals of the positions: measured 7e-4, 4e-3, and 5e-5 hartree."""
    for _, numbers, positions, row in archive_molecules(20):
        found = xtb_properties(numbers, positions, ["mu", "alpha", "homo", "lumo", "gap", "energy"])
        assert found["mu"] == pytest.approx(float(row["mu"]), abs=2e-3)
        assert found["alpha"] == pytest.approx(float(row["alpha"]), abs=1e-2)
        assert found["energy"] == pytest.approx(float(row["u0"]), abs=3e-5)
        for name in ("homo", "lumo", "gap"):
            assert found[name] == pytest.approx(float(row[name]) * HARTREE_IN_EV, abs=1e-4 * HARTREE_IN_EV)
