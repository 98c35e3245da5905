"""Enumeration of small molecules of C, N, O and F under valence and stability rules."""

from __future__ import annotations

from collections.abc import Iterator

from rdkit import Chem

VALENCE = {6: 4, 7: 3, 8: 2, 9: 1}
_ORDERS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
# Bonded heteroatoms, cumulated double bonds, strained unsaturated rings: unstable, or hard to embed.
_UNSTABLE = tuple(
    Chem.MolFromSmarts(pattern) for pattern in ("[N,O,F]~[N,O,F]", "*=*=*", "[r3,r4]=*", "[r3,r4]:*", "[r]#*")
)


def small_molecules(max_heavy_atoms: int = 6) -> list[str]:
    """Canonical SMILES of all molecules of C, N, O and F with up to ``max_heavy_atoms`` heavy atoms, sorted.

    Molecules have at most one ring and at least as many carbons as heteroatoms, which are never bonded to each
    other; no cumulated double bonds, no double bond at a ring of three or four atoms, no triple bond in a ring.

    Args:
        max_heavy_atoms: 1 to 7; 6 gives 5,385 molecules in a few seconds, 7 takes about eight times as long.

    Raises:
        ValueError: If ``max_heavy_atoms`` is outside that range.
    """
    if not 1 <= max_heavy_atoms <= 7:
        raise ValueError(f"max_heavy_atoms must lie in 1 .. 7, got {max_heavy_atoms}; more would take hours")
    level = {name: mol for mol in map(_atom, VALENCE) if (name := _canonical(mol))}
    found = set(level)
    for _ in range(max_heavy_atoms - 1):
        chains = _distinct(grown for mol in level.values() for grown in _with_atom(mol))
        rings = _distinct(closed for mol in chains.values() for closed in _with_bond(mol))
        level = chains | rings
        found |= level.keys()
    return sorted(name for name in found if _mostly_carbon(name))


def _atom(number: int) -> Chem.RWMol:
    mol = Chem.RWMol()
    mol.AddAtom(Chem.Atom(number))
    return mol


def _with_atom(mol: Chem.RWMol) -> Iterator[Chem.RWMol]:
    for place, free in enumerate(_free_valences(mol)):
        for number, valence in VALENCE.items():
            for order in range(1, min(free, valence, 3) + 1):
                grown = Chem.RWMol(mol)
                grown.AddBond(place, grown.AddAtom(Chem.Atom(number)), _ORDERS[order])
                yield grown


def _with_bond(mol: Chem.RWMol) -> Iterator[Chem.RWMol]:
    if mol.GetNumBonds() >= mol.GetNumAtoms():  # a ring already
        return
    free = _free_valences(mol)
    for i in range(len(free)):
        for j in range(i + 1, len(free)):
            if mol.GetBondBetweenAtoms(i, j) is None:
                for order in range(1, min(free[i], free[j], 2) + 1):
                    closed = Chem.RWMol(mol)
                    closed.AddBond(i, j, _ORDERS[order])
                    yield closed


def _free_valences(mol: Chem.RWMol) -> list[int]:
    return [
        VALENCE[atom.GetAtomicNum()] - sum(int(bond.GetBondTypeAsDouble()) for bond in atom.GetBonds())
        for atom in mol.GetAtoms()
    ]


def _distinct(mols: Iterator[Chem.RWMol]) -> dict[str, Chem.RWMol]:
    distinct: dict[str, Chem.RWMol] = {}
    for mol in mols:
        name = _canonical(mol)
        if name and name not in distinct:
            distinct[name] = mol
    return distinct


def _canonical(mol: Chem.RWMol) -> str | None:
    """Canonical SMILES, or None if the molecule is not stable."""
    plain = Chem.Mol(mol)
    Chem.SanitizeMol(plain)
    kekulized = Chem.Mol(mol)
    Chem.FastFindRings(kekulized)
    if any(plain.HasSubstructMatch(bad) or kekulized.HasSubstructMatch(bad) for bad in _UNSTABLE):
        return None
    return Chem.MolToSmiles(plain)


def _mostly_carbon(smiles: str) -> bool:
    numbers = [atom.GetAtomicNum() for atom in Chem.MolFromSmiles(smiles).GetAtoms()]
    return 2 * numbers.count(6) >= len(numbers)
