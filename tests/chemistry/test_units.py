"""The table of properties."""

import pytest
from scipy import constants

from tag_lightning.chemistry import units


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("mu", "debye"),
        ("alpha", "bohr^3"),
        ("homo", "eV"),
        ("gap", "eV"),
        ("r2", "bohr^2"),
        ("zpve", "meV"),
        ("g298", "eV"),
        ("cv", "cal/(mol K)"),
        ("A", "GHz"),
    ],
)
def test_units_of_known_properties(name: str, unit: str) -> None:
    assert units.property_of(name).unit == unit
    assert units.property_of(name).name == name


def test_an_unknown_property_names_the_known_and_the_close() -> None:
    with pytest.raises(ValueError, match=r"'hommo'.*expected one of mu, alpha.*Did you mean homo"):
        units.property_of("hommo")


def test_constants_agree_with_codata() -> None:
    hartree, _, _ = constants.physical_constants["Hartree energy in eV"]
    bohr, _, _ = constants.physical_constants["Bohr radius"]
    dipole, _, _ = constants.physical_constants["atomic unit of electric dipole mom."]
    joule, _, _ = constants.physical_constants["Hartree energy"]
    assert pytest.approx(hartree, rel=2e-6) == units.HARTREE_IN_EV
    assert pytest.approx(bohr * 1e10, rel=1e-8) == units.BOHR_IN_ANGSTROM
    assert pytest.approx(dipole * constants.c * 1e21, rel=1e-8) == units.ATOMIC_DIPOLE_IN_DEBYE
    assert pytest.approx(joule * constants.N_A / constants.calorie / 1e3, rel=1e-8) == units.HARTREE_IN_KCAL_PER_MOL
    assert constants.N_A == units.AVOGADRO_PER_MOL
