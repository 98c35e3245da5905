"""Molecules from elements and positions, and their canonical SMILES."""

from __future__ import annotations

import torch
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D
from torch import Tensor

from tag_lightning.chemistry.bonds import bond_orders

_BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}

# Valence assignments that RDKit tries: their number grows exponentially with the atoms of several valencies, and
# the default is unbounded.
_MAX_ASSIGNMENTS = 1000


def molecule(numbers: Tensor, positions: Tensor) -> Chem.Mol:
    """Build the molecule with the bonds of ``bond_orders``, without sanitising it.

    Args:
        numbers: Atomic numbers, integers ``[n]``; padding (0) is left out.
        positions: Positions in angstrom, ``[n, 3]``.

    Returns:
        The molecule, atoms in the given order, hydrogens explicit, positions as its only conformer.

    Raises:
        ValueError: As ``bond_orders``.
    """
    orders = bond_orders(numbers[None], positions[None])[0]
    real = numbers > 0
    mol = _atoms(numbers[real], positions[real])
    orders = orders[real][:, real].triu()
    for first, second in orders.nonzero().tolist():
        mol.AddBond(first, second, _BOND_TYPES[int(orders[first, second])])
    return mol.GetMol()


def canonical_smiles(mol: Chem.Mol) -> str | None:
    """SMILES of the whole molecule, all of its fragments included, if RDKit sanitises it.

    This is weaker than stability: RDKit silently adds hydrogens to an atom with too few bonds.

    Args:
        mol: A molecule; not modified.

    Returns:
        Canonical SMILES with the explicit hydrogens of ``mol``, independent of the order of atoms; None if RDKit
        refuses the molecule, or there are no atoms.
    """
    mol = Chem.Mol(mol)
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError):
            return None
        return Chem.MolToSmiles(mol) or None


def is_connected(mol: Chem.Mol) -> bool:
    """True if the bonds hold all atoms of ``mol`` together in one fragment; False without atoms."""
    return len(Chem.GetMolFrags(mol)) == 1


def perceived(numbers: Tensor, positions: Tensor) -> Chem.Mol | None:
    """Perceive the neutral molecule by RDKit, with bond orders and aromatic rings.

    Args:
        numbers: Atomic numbers, integers ``[n]``; padding (0) is left out. Any element.
        positions: Positions in angstrom, ``[n, 3]``.

    Returns:
        A sanitised molecule with its positions as conformer, atoms in the given order; None if RDKit finds no
        bonds that match the valencies, a position is not finite, or there are no atoms.
    """
    real = numbers > 0
    if not bool(real.any()) or not bool(torch.isfinite(positions[real]).all()):
        return None
    mol = _atoms(numbers[real], positions[real])
    with rdBase.BlockLogs():
        try:
            rdDetermineBonds.DetermineBonds(mol, charge=0, maxIterations=_MAX_ASSIGNMENTS)
            Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError):
            return None
    return mol.GetMol()


def _atoms(numbers: Tensor, positions: Tensor) -> Chem.RWMol:
    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers))
    for index, (number, position) in enumerate(zip(numbers.tolist(), positions.tolist(), strict=True)):
        mol.AddAtom(Chem.Atom(number))
        conformer.SetAtomPosition(index, Point3D(*position))
    mol.AddConformer(conformer)
    return mol
