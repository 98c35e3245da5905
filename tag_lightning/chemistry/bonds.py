"""Bonds and stable atoms from distances, by the tables used in papers on molecule generation.

Tables and margins: EDM (Hoogeboom et al. 2022, arXiv 2203.17003, appendix C). There is no aromatic order: an
aromatic ring has the single and double bonds that its distances give.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
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

# Sum of the bond orders of a stable atom.
VALENCIES: Mapping[int, int] = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}


def _longest(lengths: Mapping[tuple[int, int], float], margin: float) -> Tensor:
    table = torch.zeros(max(VALENCIES) + 1, max(VALENCIES) + 1, dtype=torch.float64)
    for (first, second), length in lengths.items():
        table[first, second] = table[second, first] = length + margin
    return table


# Upper bounds in picometres of first, second and third order, ``[3, 10, 10]``; 0 without such a bond. They decrease
# with the order, so the order of a pair is the number of bounds above its distance.
_LONGEST = torch.stack(
    [
        _longest(lengths, margin)
        for lengths, margin in zip((SINGLE_LENGTHS, DOUBLE_LENGTHS, TRIPLE_LENGTHS), MARGINS, strict=True)
    ]
)
_VALENCY = torch.tensor([VALENCIES.get(number, -1) for number in range(max(VALENCIES) + 1)])


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
    longest = _LONGEST.to(positions.device, positions.dtype)[:, atoms[:, :, None], atoms[:, None]]
    orders = (distances < longest).sum(dim=0)
    return orders * ~torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)


def stable_atoms(numbers: Tensor, positions: Tensor) -> Tensor:
    """Mask of atoms whose bond orders sum to their valency: H 1, C 4, N 3, O 2, F 1.

    Args:
        numbers: Atomic numbers, integers ``[B, N]``, 0 for padding.
        positions: Positions in angstrom, ``[B, N, 3]``.

    Returns:
        Bool ``[B, N]``, False at padding.

    Raises:
        ValueError: As ``bond_orders``.
    """
    return bond_orders(numbers, positions).sum(dim=-1) == _VALENCY.to(numbers.device)[numbers.long()]


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
            f"Atomic numbers {unknown} have no bond lengths; expected {sorted(VALENCIES)} (H, C, N, O, F) or 0 for "
            "padding. Leave out molecules with other elements, or decode atom types to atomic numbers first."
        )
