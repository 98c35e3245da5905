"""Names and units of the properties of QM9, in one table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

# The factor of papers on QM9, so that errors are comparable; CODATA has 27.21138.
HARTREE_IN_EV = 27.2114
HARTREE_IN_MEV = 1000 * HARTREE_IN_EV
# CODATA 2018.
HARTREE_IN_KCAL_PER_MOL = 627.509474
BOHR_IN_ANGSTROM = 0.529177210903
ATOMIC_DIPOLE_IN_DEBYE = 2.541746473
AVOGADRO_PER_MOL = 6.02214076e23


@dataclass(frozen=True)
class Property:
    """A property of a molecule.

    Attributes:
        name: Name in files and configurations.
        unit: Unit of all values in data, training and results.
        long_name: Name in tables and figures.
    """

    name: str
    unit: str
    long_name: str


PROPERTIES: Mapping[str, Property] = {
    name: Property(name, unit, long_name)
    for name, unit, long_name in (
        ("mu", "debye", "dipole moment"),
        ("alpha", "bohr^3", "isotropic polarizability"),
        ("homo", "eV", "energy of the highest occupied orbital"),
        ("lumo", "eV", "energy of the lowest unoccupied orbital"),
        ("gap", "eV", "gap between the highest occupied and the lowest unoccupied orbital"),
        ("r2", "bohr^2", "electronic spatial extent"),
        ("zpve", "meV", "zero point vibrational energy"),
        ("u0", "eV", "internal energy at 0 K"),
        ("u298", "eV", "internal energy at 298.15 K"),
        ("h298", "eV", "enthalpy at 298.15 K"),
        ("g298", "eV", "free energy at 298.15 K"),
        ("cv", "cal/(mol K)", "heat capacity at 298.15 K"),
        ("A", "GHz", "rotational constant A"),
        ("B", "GHz", "rotational constant B"),
        ("C", "GHz", "rotational constant C"),
    )
}


def property_of(name: str) -> Property:
    """The property called ``name``.

    Raises:
        ValueError: If the property is unknown; lists the known ones.
    """
    if name in PROPERTIES:
        return PROPERTIES[name]
    close = difflib.get_close_matches(name, PROPERTIES, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"Unknown property '{name}'; expected one of {', '.join(PROPERTIES)}.{hint}")
