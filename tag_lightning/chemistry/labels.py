"""Labels computed by RDKit: rough, but fast for any molecule."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdForceFieldHelpers

from tag_lightning.chemistry.units import ATOMIC_DIPOLE_IN_DEBYE, AVOGADRO_PER_MOL, BOHR_IN_ANGSTROM

_DESCRIPTORS: Mapping[str, Callable[[Chem.Mol], float]] = dict(Descriptors.descList)


def rdkit_label(mol: Chem.Mol, name: str) -> float:
    """One label of one molecule.

    Args:
        mol: Molecule with explicit hydrogens and, for ``mu``, with a conformer; not modified.
        name: ``alpha``: polarizability in bohr^3, from Crippen's molar refractivity MR by Lorentz and Lorenz,
            alpha = 3 MR / (4 pi N_A). ``mu``: dipole moment in debye, from MMFF94 charges at the conformer's
            positions, about the centre of mass. Otherwise a name of
            ``rdkit.Chem.Descriptors``, in RDKit's unit.

    Raises:
        ValueError: If the name is unknown (close ones are named), RDKit cannot sanitise the molecule, hydrogens are
            implicit, or, for ``mu``, a conformer or MMFF parameters are missing.
    """
    return rdkit_labels(mol, [name])[name]


def rdkit_labels(mol: Chem.Mol, names: Iterable[str]) -> dict[str, float]:
    """Several labels of one molecule, by name and in the order of ``names``; see ``rdkit_label``.

    Raises:
        ValueError: As ``rdkit_label``.
    """
    functions = {name: _label_function(name) for name in names}
    mol = _sanitised(mol)
    with rdBase.BlockLogs():
        return {name: float(function(mol)) for name, function in functions.items()}


def _label_function(name: str) -> Callable[[Chem.Mol], float]:
    known = {**_DESCRIPTORS, **_OWN}
    if name in known:
        return known[name]
    lower = {candidate.lower(): candidate for candidate in known}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), lower)]
    hint = f" Close names: {', '.join(close)}." if close else ""
    raise ValueError(
        f"RDKit has no label '{name}'; expected {', '.join(_OWN)} or a descriptor of rdkit.Chem.Descriptors.{hint}"
    )


def _sanitised(mol: Chem.Mol) -> Chem.Mol:
    mol = Chem.Mol(mol)
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"The molecule cannot be labelled, since RDKit refuses it: {error}. Expected valid valencies; leave "
                "it out: canonical_smiles(mol) is None for such molecules."
            ) from error
    bare = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    if bare:
        raise ValueError(
            f"{bare} hydrogens of the molecule are implicit; expected explicit ones. Add them before embedding: "
            "Chem.AddHs(mol)."
        )
    return mol


def _polarizability(mol: Chem.Mol) -> float:
    cubic_angstrom = 3 * _DESCRIPTORS["MolMR"](mol) / (4 * math.pi * AVOGADRO_PER_MOL) * 1e24
    return cubic_angstrom / BOHR_IN_ANGSTROM**3


def _dipole_moment(mol: Chem.Mol) -> float:
    if not mol.GetNumConformers():
        raise ValueError(
            "The molecule has no conformer; expected positions for mu. Embed it or read it from a 3D file."
        )
    parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    if parameters is None:
        raise ValueError(
            f"MMFF94 has no parameters for {Chem.MolToSmiles(mol)}; expected elements and bonds it knows. Leave the "
            "molecule out, or take mu from xtb_properties."
        )
    charges = np.array([parameters.GetMMFFPartialCharge(index) for index in range(mol.GetNumAtoms())])
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    positions = mol.GetConformer().GetPositions()
    centre = masses @ positions / masses.sum()
    return float(np.linalg.norm(charges @ (positions - centre))) / BOHR_IN_ANGSTROM * ATOMIC_DIPOLE_IN_DEBYE


_OWN: Mapping[str, Callable[[Chem.Mol], float]] = {"alpha": _polarizability, "mu": _dipole_moment}
