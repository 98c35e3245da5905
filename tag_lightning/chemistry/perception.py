"""Molecules from elements and positions, and the SMILES they are compared by."""

from __future__ import annotations

import torch
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D
from torch import Tensor

from tag_lightning.chemistry.bonds import bond_orders

_BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}

# Valence assignments that RDKit tries before it gives up. Their number multiplies with every atom that has
# several valencies, and by default there is no bound.
_MAX_ASSIGNMENTS = 1000


def molecule(numbers: Tensor, positions: Tensor) -> Chem.Mol:
    """The molecule with the bonds of ``bond_orders``, neither sanitised nor checked.

    Args:
        numbers: Atomic numbers, integers ``[n]``; padding (0) is left out.
        positions: Angstrom, ``[n, 3]``.

    Returns:
        Atoms in the given order, hydrogens explicit, positions as its only conformer.

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
    """SMILES of the largest fragment, as papers count valid and unique molecules.

    Valid means that RDKit sanitises the whole molecule. That is weaker than stability: an atom with too few bonds
    is silently given hydrogens.

    Args:
        mol: A molecule, which is left as it is.

    Returns:
        Canonical SMILES with the hydrogens that are atoms of ``mol`` spelled out, the same for every order of the
        atoms; None for a molecule that is invalid or empty. Of fragments with equally many atoms the first by
        its SMILES counts.
    """
    mol = Chem.Mol(mol)
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
            fragments = Chem.GetMolFrags(mol, asMols=True)
        except (ValueError, RuntimeError):
            return None
        most = max((fragment.GetNumAtoms() for fragment in fragments), default=0)
        return min((Chem.MolToSmiles(part) for part in fragments if part.GetNumAtoms() == most), default=None)


def perceived(numbers: Tensor, positions: Tensor) -> Chem.Mol | None:
    """The neutral molecule that RDKit's own perception sees, bond orders and aromatic rings included.

    Args:
        numbers: Atomic numbers, integers ``[n]``; padding (0) is left out. Any element.
        positions: Angstrom, ``[n, 3]``.

    Returns:
        A sanitised molecule with its positions as conformer, atoms in the given order. None where RDKit finds no
        bonds that suit the valencies, where a position is not finite, and without atoms.
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
