"""Bonds and stable atoms from distances, by the tables used in papers on molecule generation.

Tables and margins: EDM (Hoogeboom et al. 2022, arXiv 2203.17003, appendix C). They have no aromatic order: an
aromatic ring has the single and double bonds that its distances give.

EDM's tables cover H, C, N, O and F. For pairs with another element the length of a single bond is the sum of RDKit's
covalent radii (``PeriodicTable.GetRcovalent``), that of a double bond 134/154 of it, EDM's ratio for carbon; valencies
are those of RDKit's periodic table (``GetValenceList``; sulfur has 2, 4 and 6). Elements without a fixed valency there,
such as iron, are not covered.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rdkit import Chem
from torch import Tensor

# Typical bond lengths in picometres by the two atomic numbers, the smaller first.
SINGLE_LENGTHS: Mapping[tuple[int, int], float] = {
    (1, 1): 74.0,
    (1, 6): 109.0,
    (1, 7): 101.0,
    (1, 8): 96.0,
    (1, 9): 92.0,
    (6, 6): 154.0,
    (6, 7): 147.0,
    (6, 8): 143.0,
    (6, 9): 135.0,
    (7, 7): 145.0,
    (7, 8): 140.0,
    (7, 9): 136.0,
    (8, 8): 148.0,
    (8, 9): 142.0,
    (9, 9): 142.0,
}
DOUBLE_LENGTHS: Mapping[tuple[int, int], float] = {
    (6, 6): 134.0,
    (6, 7): 129.0,
    (6, 8): 120.0,
    (7, 7): 125.0,
    (7, 8): 121.0,
    (8, 8): 121.0,
}
TRIPLE_LENGTHS: Mapping[tuple[int, int], float] = {(6, 6): 120.0, (6, 7): 116.0, (6, 8): 113.0, (7, 7): 110.0}

# Margins in picometres, added to the lengths of orders one, two and three.
MARGINS = (10.0, 5.0, 3.0)

_ELEMENTS = 118
_TABLE = Chem.GetPeriodicTable()


def _valencies() -> dict[int, tuple[int, ...]]:
    """Possible sums of the bond orders of a stable atom, by atomic number; RDKit's -1 stands for any."""
    lists = {number: tuple(_TABLE.GetValenceList(number)) for number in range(1, _ELEMENTS + 1)}
    return {number: fixed for number, own in lists.items() if (fixed := tuple(v for v in own if v >= 0))}


VALENCIES: Mapping[int, tuple[int, ...]] = _valencies()
_EDM = tuple(sorted({number for pair in SINGLE_LENGTHS for number in pair}))


def _upper_bounds() -> Tensor:
    """Distances ``[3, 119, 119]`` in picometres below which a pair has at least order 1, 2, 3; 0 if impossible.

    The bounds decrease with the order, so the order of a pair is the number of bounds above its distance.
    """
    radii = torch.tensor([_TABLE.GetRcovalent(number) for number in range(_ELEMENTS + 1)], dtype=torch.float64)
    highest = torch.tensor([max(VALENCIES.get(number, (0,))) for number in range(_ELEMENTS + 1)])
    single = 100 * (radii[:, None] + radii)
    double = single * DOUBLE_LENGTHS[6, 6] / SINGLE_LENGTHS[6, 6]
    bounds = torch.stack((single + MARGINS[0], double + MARGINS[1], torch.zeros_like(single)))
    for order in (1, 2):
        possible = highest >= order
        bounds[order - 1] *= possible[:, None] & possible
    edm = torch.tensor(_EDM)
    bounds[:, edm[:, None], edm] = 0
    for order, lengths in enumerate((SINGLE_LENGTHS, DOUBLE_LENGTHS, TRIPLE_LENGTHS)):
        for (first, second), length in lengths.items():
            bounds[order, first, second] = bounds[order, second, first] = length + MARGINS[order]
    return bounds


_UPPER_BOUNDS = _upper_bounds()
# One column more than the largest valency, for all larger sums.
_STABLE = torch.zeros(_ELEMENTS + 1, 2 + max(map(max, VALENCIES.values())), dtype=torch.bool)
for _number, _sums in VALENCIES.items():
    _STABLE[_number, list(_sums)] = True


def bond_orders(numbers: Tensor, positions: Tensor) -> Tensor:
    """Bond orders between all atoms of a batch of molecules.

    A pair is bonded below its single length plus 10 pm, doubly below its double length plus 5 pm, triply below
    its triple length plus 3 pm. An atom with a non-finite coordinate has no bonds.

    Args:
        numbers: Atomic numbers, integers ``[B, N]``, 0 for padding.
        positions: Positions in angstrom, ``[B, N, 3]``; arbitrary at padding.

    Returns:
        Orders 0 to 3, int64 ``[B, N, N]``, symmetric, 0 on the diagonal and at padding.

    Raises:
        ValueError: If the shapes do not match, or an element has no bond lengths.
    """
    _check(numbers, positions)
    atoms = numbers.long()
    # Differences rather than matrix products: exactly symmetric, and accurate far from the origin.
    distances = 100.0 * (positions[:, :, None] - positions[:, None]).norm(dim=-1)
    bounds = _UPPER_BOUNDS.to(positions.device, positions.dtype)[:, atoms[:, :, None], atoms[:, None]]
    orders = (distances < bounds).sum(dim=0)
    return orders * ~torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)


def stable_atoms(numbers: Tensor, positions: Tensor) -> Tensor:
    """Mask of atoms whose bond orders sum to a valency: H 1, C 4, N 3, O 2, F 1, S 2, 4 or 6, ...

    Args:
        numbers: Atomic numbers, integers ``[B, N]``, 0 for padding.
        positions: Positions in angstrom, ``[B, N, 3]``.

    Returns:
        Bool ``[B, N]``, False at padding.

    Raises:
        ValueError: As ``bond_orders``.
    """
    sums = bond_orders(numbers, positions).sum(dim=-1).clamp(max=_STABLE.shape[1] - 1)
    return _STABLE.to(numbers.device)[numbers.long(), sums]


def _check(numbers: Tensor, positions: Tensor) -> None:
    if numbers.dim() != 2 or positions.shape != (*numbers.shape, 3):
        raise ValueError(
            f"Numbers have shape {list(numbers.shape)} and positions {list(positions.shape)}; expected [B, N] and "
            "[B, N, 3]. Give a single molecule as a batch of one: numbers[None], positions[None]."
        )
    known = torch.tensor([0, *VALENCIES], device=numbers.device)
    unknown = numbers[~torch.isin(numbers, known)].unique().tolist()
    if unknown:
        raise ValueError(
            f"Atomic numbers {unknown} have no bond lengths; expected 0 for padding or elements with a fixed valency "
            "in RDKit's periodic table, such as H, C, N, O, F, P, S, Cl. Leave out molecules with other elements, or "
            "decode atom types to atomic numbers first."
        )
