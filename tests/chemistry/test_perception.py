"""Molecules from positions: the right ones, and None instead of noise or a hang."""

import math

import pytest
import torch
from geometries import ARCHIVE, GEOMETRIES, archive_molecules, geometry
from rdkit import Chem

from tag_lightning.chemistry import canonical_smiles, is_connected, molecule, perceived


def spelled_out(smiles: str) -> str:
    """Canonical SMILES with every hydrogen an atom."""
    return Chem.MolToSmiles(Chem.AddHs(Chem.MolFromSmiles(smiles)))


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name not in {"benzene", "hydrogen"}])
def test_known_molecules_have_their_smiles(name: str) -> None:
    expected = spelled_out(GEOMETRIES[name][3])
    assert canonical_smiles(molecule(*geometry(name))) == expected
    mol = perceived(*geometry(name))
    assert mol is not None
    assert Chem.MolToSmiles(mol) == expected


def test_rdkit_sees_the_aromatic_ring_that_distances_miss() -> None:
    mol = perceived(*geometry("benzene"))
    assert mol is not None
    assert Chem.MolToSmiles(mol) == spelled_out("c1ccccc1")


def test_atoms_and_positions_stay_as_they_were_without_padding() -> None:
    numbers, positions = geometry("formaldehyde")
    padded = torch.cat([numbers, torch.zeros(3, dtype=torch.long)]), torch.cat([positions, torch.zeros(3, 3)])
    for mol in (molecule(*padded), perceived(*padded)):
        assert mol is not None
        assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == numbers.tolist()
        torch.testing.assert_close(torch.tensor(mol.GetConformer().GetPositions()), positions)


def test_smiles_do_not_depend_on_the_order_of_atoms_nor_change_the_molecule() -> None:
    numbers, positions = geometry("ethene")
    generator = torch.Generator().manual_seed(0)
    mol = molecule(numbers, positions)
    before = mol.ToBinary()
    for _ in range(5):
        order = torch.randperm(6, generator=generator)
        assert canonical_smiles(molecule(numbers[order], positions[order])) == canonical_smiles(mol)
    assert mol.ToBinary() == before


def test_all_fragments_count_and_their_order_does_not() -> None:
    numbers, positions = zip(geometry("methane"), geometry("water"), geometry("hydrogen cyanide"), strict=True)
    apart = [p + 20.0 * k for k, p in enumerate(positions)]
    mols = [
        molecule(torch.cat([numbers[i] for i in order]), torch.cat([apart[i] for i in order]))
        for order in ((0, 1, 2), (2, 0, 1))
    ]
    expected = ".".join(sorted((spelled_out("C"), spelled_out("O"), spelled_out("C#N")), key=len))
    assert canonical_smiles(mols[0]) == canonical_smiles(mols[1])
    assert set(str(canonical_smiles(mols[0])).split(".")) == set(expected.split("."))
    assert not is_connected(mols[0])
    assert is_connected(molecule(numbers[0], positions[0]))


def test_too_many_bonds_are_invalid_and_too_few_are_not() -> None:
    numbers, positions = geometry("methane")
    assert canonical_smiles(molecule(numbers[:4], positions[:4])) is not None
    crowded = torch.cat([positions, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)])
    assert canonical_smiles(molecule(torch.tensor([6, 1, 1, 1, 1, 1]), crowded)) is None


def test_no_atoms_and_no_numbers_are_no_molecule() -> None:
    nothing = torch.zeros(4, dtype=torch.long), torch.zeros(4, 3)
    assert canonical_smiles(molecule(*nothing)) is None
    assert not is_connected(molecule(*nothing))
    assert perceived(*nothing) is None
    numbers, positions = geometry("water")
    positions[0, 0] = math.nan
    assert perceived(numbers, positions) is None
    assert molecule(numbers, positions).GetNumBonds() == 0


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_tangles_end_quickly_and_quietly(scale: float, capfd: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    elements = torch.tensor([1, 6, 7, 8, 9])
    for _ in range(10):
        numbers = elements[torch.randint(0, 5, (29,), generator=generator)]
        positions = scale * torch.randn(29, 3, generator=generator)
        perceived(numbers, positions)
        canonical_smiles(molecule(numbers, positions))
    grid = torch.tensor([(1.45 * i, 1.45 * j, 0.0) for i in range(5) for j in range(5)])
    assert perceived(torch.full((25,), 7), grid) is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs the archive of molecules")
def test_molecules_of_qm9_are_recognised_as_often_as_measured() -> None:
    """Distances find a valid molecule for 96.3 % and the right one for 90.3 %; RDKit's own way 96.3 % and 95.0 %."""
    valid = right = seen = seen_right = 0
    for mol, numbers, positions, _ in archive_molecules(300):
        Chem.RemoveStereochemistry(mol)
        expected = Chem.MolToSmiles(mol)
        smiles = canonical_smiles(molecule(numbers, positions))
        valid += smiles is not None
        right += smiles == expected
        other = perceived(numbers, positions)
        seen += other is not None
        if other is not None:
            Chem.RemoveStereochemistry(other)
            seen_right += Chem.MolToSmiles(other) == expected
    assert 0.92 < valid / 300 <= 0.99
    assert 0.86 < right / 300 <= 0.96
    assert 0.94 < seen / 300 <= 1
    assert 0.92 < seen_right / 300 <= 1
