"""Properties of one geometry by quantum chemistry: GFN2-xTB (Bannwarth et al. 2019, doi 10.1021/acs.jctc.8b01176).

An independent judge of generated molecules: no guide has its gradient. Needs the optional package tblite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from tag_lightning.chemistry.units import (
    ATOMIC_DIPOLE_IN_DEBYE,
    BOHR_IN_ANGSTROM,
    HARTREE_IN_EV,
    HARTREE_IN_KCAL_PER_MOL,
)

# These come from one run; the other two need six runs and up to about eighty.
CHEAP_PROPERTIES = ("mu", "homo", "lumo", "gap", "energy", "max_force")
XTB_PROPERTIES = (*CHEAP_PROPERTIES, "alpha", "relaxation_energy")

# Atomic units: above the convergence error, and within the linear response.
_FIELD = 1e-3
_MAX_STEPS = 50
# Hartree/bohr. Errors against a full relaxation on 12 molecules of QM9: median 0.02 kcal/mol, largest 0.44.
_RELAXED_FORCE = 1e-4


class XTBError(RuntimeError):
    """A calculation failed: no convergence, atoms too close, or an element that GFN2 lacks."""


def is_available() -> bool:
    """True if tblite can be imported."""
    try:
        _calculator_class()
    except ImportError:
        return False
    return True


def check_request(names: Collection[str]) -> None:
    """Check that tblite is installed and xTB has the properties.

    Raises:
        ImportError: If tblite cannot be imported.
        ValueError: If a name is not in ``XTB_PROPERTIES``.
    """
    unknown = sorted(set(names) - set(XTB_PROPERTIES))
    if unknown:
        raise ValueError(f"xTB does not compute {', '.join(unknown)}; expected names from {', '.join(XTB_PROPERTIES)}.")
    _calculator_class()


def xtb_properties(
    numbers: ArrayLike, positions: ArrayLike, names: Collection[str] = CHEAP_PROPERTIES
) -> dict[str, float]:
    """Properties of a neutral molecule at the given geometry, without relaxation.

    Orbital energies are meaningful for closed shells; with an odd number of electrons, the half-filled orbital
    counts as the highest occupied one.

    Args:
        numbers: Atomic numbers ``[n]``; padding (0) is left out.
        positions: Positions in angstrom, ``[n, 3]``.
        names: Names from ``XTB_PROPERTIES``.

    Returns:
        Values in the order of ``names``: ``mu`` (debye), ``homo``, ``lumo``, ``gap`` (eV; NaN if no orbital is
        empty), ``energy`` (hartree), ``max_force`` (hartree/bohr, the largest norm over atoms), ``alpha``
        (bohr^3, isotropic, by finite fields; far below DFT's, since GFN2's basis is minimal), and
        ``relaxation_energy`` (kcal/mol, see there).

    Raises:
        ImportError: If tblite is not installed.
        ValueError: If a name or shape does not match.
        XTBError: If the calculation failed.
    """
    check_request(names)
    atoms, places = _bare(numbers, positions)
    result = _run(atoms, places)
    found = _orbitals(result)
    found["mu"] = float(np.linalg.norm(result["dipole"])) * ATOMIC_DIPOLE_IN_DEBYE
    found["energy"] = float(result["energy"])
    found["max_force"] = float(np.linalg.norm(result["gradient"], axis=1).max())
    if "alpha" in names:
        found["alpha"] = _polarizability(atoms, places)
    if "relaxation_energy" in names:
        found["relaxation_energy"] = relaxation_energy(numbers, positions)
    return {name: found[name] for name in names}


def relaxation_energy(numbers: ArrayLike, positions: ArrayLike) -> float:
    """Energy released by a short relaxation, a distance from the nearest minimum.

    Args:
        numbers: Atomic numbers ``[n]``; padding (0) is left out.
        positions: Positions in angstrom, ``[n, 3]``.

    Returns:
        Energy of the given geometry minus the lowest energy within 50 steps of L-BFGS, in kcal/mol, at least 0.
        NaN if the first calculation fails; a later failure ends the relaxation.

    Raises:
        ImportError: If tblite is not installed.
        ValueError: If the shapes do not match.
    """
    energies: list[float] = []
    try:
        atoms, places = _bare(numbers, positions)
        energy_and_gradient = _surface(atoms, places)

        def recorded(flat: np.ndarray) -> tuple[float, np.ndarray]:
            energy, gradient = energy_and_gradient(flat)
            energies.append(energy)
            return energy, gradient

        options = {"maxiter": _MAX_STEPS, "gtol": _RELAXED_FORCE, "ftol": 0.0}
        minimize(recorded, places.ravel(), jac=True, method="L-BFGS-B", options=options)
    except XTBError:
        pass
    return (energies[0] - min(energies)) * HARTREE_IN_KCAL_PER_MOL if energies else math.nan


def _calculator_class() -> Any:
    try:
        from tblite.interface import Calculator
    except ImportError as error:
        raise ImportError(
            f"GFN2-xTB needs the package tblite, which cannot be imported ({error}). "
            "Install it with: pip install tag_lightning[physics]"
        ) from error
    return Calculator


def _bare(numbers: ArrayLike, positions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Atoms without padding, positions ``[n, 3]`` in bohr."""
    atoms, places = np.asarray(numbers, dtype=np.int64), np.asarray(positions, dtype=np.float64)
    if atoms.ndim != 1 or places.shape != (len(atoms), 3):
        raise ValueError(
            f"Numbers have shape {list(atoms.shape)} and positions {list(places.shape)}; expected [n] and [n, 3]. "
            "Give one molecule at a time, or a list of them to xtb_many."
        )
    places = places[atoms > 0] / BOHR_IN_ANGSTROM
    if not len(places):
        raise XTBError("The molecule has no atoms; expected at least one atomic number above 0.")
    if not np.isfinite(places).all():
        raise XTBError("Positions are not finite; expected angstrom. Leave out samples that diverged.")
    return atoms[atoms > 0], places


def _calculator(atoms: np.ndarray, places: np.ndarray, field: Collection[float] | None = None) -> Any:
    kind = _calculator_class()
    with _as_xtb_errors():
        calculator = kind("GFN2-xTB", atoms, places)
    calculator.set("verbosity", 0)
    if field is not None:
        # tblite 0.8.0 passes this to C, which takes a list of floats and refuses a numpy array.
        calculator.add("electric-field", [float(component) for component in field])
    return calculator


def _run(atoms: np.ndarray, places: np.ndarray, field: Collection[float] | None = None) -> Any:
    return _solved(_calculator(atoms, places, field))


def _solved(calculator: Any, start: Any = None) -> Any:
    """The calculator's result, started from ``start`` if given."""
    with _as_xtb_errors():
        result = calculator.singlepoint(start)
    if not (math.isfinite(result["energy"]) and np.isfinite(result["gradient"]).all()):
        raise XTBError("GFN2-xTB returned a non-finite energy or force; count this molecule as failed.")
    return result


@contextmanager
def _as_xtb_errors() -> Iterator[None]:
    # tblite's own errors derive from these two.
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise XTBError(
            f"GFN2-xTB failed: {error}. Expected a molecule near an equilibrium; count this one as failed."
        ) from error


def _orbitals(result: Any) -> dict[str, float]:
    energies = np.asarray(result["orbital-energies"]) * HARTREE_IN_EV
    # Electrons are counted, since smearing may half-fill both orbitals of a narrow gap.
    occupied = math.ceil(round(float(np.sum(result["orbital-occupations"]))) / 2)
    homo = float(energies[occupied - 1])
    lumo = float(energies[occupied]) if occupied < len(energies) else math.nan
    return {"homo": homo, "lumo": lumo, "gap": lumo - homo}


def _polarizability(atoms: np.ndarray, places: np.ndarray) -> float:
    # Every run starts from scratch: restarted from the one without a field, it stops before the dipole has converged.
    diagonal = [
        (_run(atoms, places, axis)["dipole"] - _run(atoms, places, -axis)["dipole"]) @ axis
        for axis in _FIELD * np.eye(3)
    ]
    return float(np.mean(diagonal)) / (2 * _FIELD**2)


def _surface(atoms: np.ndarray, places: np.ndarray) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Energy (hartree) and gradient (hartree/bohr, flat) as a function of flat positions (bohr)."""
    calculator = _calculator(atoms, places)
    previous = None

    def energy_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal previous
        if not np.isfinite(flat).all():
            raise XTBError("The relaxation reached non-finite positions; count this molecule as failed.")
        with _as_xtb_errors():
            calculator.update(flat.reshape(-1, 3))
        previous = _solved(calculator, previous)
        return float(previous["energy"]), np.asarray(previous["gradient"]).ravel()

    return energy_and_gradient
