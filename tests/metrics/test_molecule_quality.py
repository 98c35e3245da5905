"""Quality of molecules on hand-made geometries, and quantum chemistry as a judge."""

from types import SimpleNamespace

import pytest
import torch
from rdkit import Chem
from torch import Tensor

from tag_lightning.chemistry import MoleculeEncoding, canonical_smiles, molecule
from tag_lightning.chemistry.embedding import embed, parse_smiles
from tag_lightning.metrics import PhysicsError, molecule_quality
from tag_lightning.metrics.error_details import error_details

ELEMENTS = (1, 6, 7, 8, 9)


def geometries(*smiles: str) -> tuple[Tensor, Tensor]:
    mols = [embed(parse_smiles(s)) for s in smiles]
    width = max(m.GetNumAtoms() for m in mols) + 2
    numbers, positions = torch.zeros(len(mols), width, dtype=torch.long), torch.zeros(len(mols), width, 3)
    for row, mol in enumerate(mols):
        numbers[row, : mol.GetNumAtoms()] = torch.tensor([a.GetAtomicNum() for a in mol.GetAtoms()])
        positions[row, : mol.GetNumAtoms()] = torch.tensor(mol.GetConformer().GetPositions()).float()
    return numbers, positions


def test_good_molecules_are_good() -> None:
    numbers, positions = geometries("C", "CCO", "CCO", "C#N")
    known = {canonical_smiles(molecule(numbers[0], positions[0]))}
    figures = molecule_quality(numbers, positions, {k for k in known if k})
    assert figures == {
        "atom_stability": 1.0,
        "molecule_stability": 1.0,
        "validity": 1.0,
        "connected": 1.0,
        "uniqueness": 0.75,
        "novelty": pytest.approx(2 / 3),
        "nan": 0.0,
    }


def test_a_lost_hydrogen_costs_two_atoms_and_one_molecule() -> None:
    numbers, positions = geometries("C", "C")
    positions[1, 1] += 20  # a hydrogen far away: it and its carbon lack a bond
    figures = molecule_quality(numbers, positions)
    assert figures["atom_stability"] == pytest.approx(8 / 10)
    assert figures["molecule_stability"] == 0.5
    assert figures["validity"] == figures["connected"] == 0.5
    assert "novelty" not in figures


def test_a_molecule_of_single_atoms_is_neither_connected_nor_valid() -> None:
    """RDKit sanitises it: it takes every atom for one whose hydrogens go without saying."""
    numbers, positions = geometries("CCO", "C")
    positions[0] += 20 * torch.arange(len(positions[0]))[:, None]
    assert canonical_smiles(molecule(numbers[0], positions[0])) is not None
    figures = molecule_quality(numbers, positions, set())
    assert figures["atom_stability"] == pytest.approx(5 / 14)
    assert figures["connected"] == figures["validity"] == 0.5
    assert figures["uniqueness"] == figures["novelty"] == 1


def test_a_connected_molecule_may_be_invalid() -> None:
    numbers, positions = geometries("C", "C")
    numbers[1, 5], positions[1, 5] = 1, positions[1, 0] + torch.tensor([1.0, 0.0, 0.0])
    figures = molecule_quality(numbers, positions)
    assert (figures["connected"], figures["validity"]) == (1.0, 0.5)


def test_molecules_that_are_not_finite_count_against_all() -> None:
    numbers, positions = geometries("C", "C", "O", "O")
    positions[1, 0, 0] = torch.nan
    positions[3, 2, 1] = torch.inf
    figures = molecule_quality(numbers, positions, set())
    assert figures["nan"] == 0.5
    assert figures["atom_stability"] == pytest.approx((5 + 3) / 16)
    assert figures["molecule_stability"] == 0.5
    assert figures["validity"] == figures["connected"] == 0.5
    assert figures["uniqueness"] == 1


def test_nothing_but_broken_molecules_is_no_accident() -> None:
    numbers, positions = geometries("C")
    figures = molecule_quality(numbers, torch.full_like(positions, torch.nan), set())
    assert figures == dict.fromkeys(figures, 0.0) | {"nan": 1.0}


@pytest.mark.parametrize("scale", [0.25, 1.0, 7.0])
def test_decoding_takes_the_largest_column(scale: float) -> None:
    x = torch.zeros(1, 6, 8)
    x[0, torch.arange(5), 3 + torch.arange(5)] = scale
    mask = torch.tensor([[True] * 5 + [False]])
    numbers, positions = MoleculeEncoding(tuple(ELEMENTS)).decode(x, mask)
    assert numbers.tolist() == [[1, 6, 7, 8, 9, 0]]  # fluorine, the last, included
    assert positions.shape == (1, 6, 3)


def physics() -> PhysicsError:
    pytest.importorskip("tblite")
    return PhysicsError(workers=1).for_task(SimpleNamespace(properties=("mu", "alpha", "qed")))


def test_physics_judges_what_it_knows() -> None:
    judge = physics()
    assert judge.judged == ("mu", "alpha")
    numbers, positions = geometries("O", "C", "C")
    positions[2, 0, 0] = torch.nan
    rows = judge.measure(numbers, positions)
    assert rows.shape == (3, judge.columns["physics"])
    assert float(rows[0, 0]) == pytest.approx(2.2, abs=0.3)  # water's dipole, debye
    assert float(rows[1, 0]) == pytest.approx(0, abs=0.02)  # methane has none
    assert bool(rows[2].isnan().all())
    figures = judge.errors(rows, torch.zeros(3, 3))
    assert figures["xtb_converged"] == pytest.approx(2 / 3)
    assert figures["xtb_mae_mu"] == pytest.approx(float(rows[:2, 0].mean()))


def test_calibration_takes_a_trend_out() -> None:
    judge = physics()
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(30, 3, generator=generator, dtype=torch.float64)
    labels = torch.stack((3 * rows[:, 0] - 1, 0.5 * rows[:, 1] + 4, rows[:, 0]), 1)
    rows[4] = torch.nan
    judge.calibrate(rows, labels)
    figures = judge.errors(rows, labels)
    assert figures["xtb_mae_mu"] == pytest.approx(0, abs=1e-9)
    assert figures["xtb_mae_alpha"] == pytest.approx(0, abs=1e-9)


def test_details_of_errors_beside_their_means() -> None:
    metric = PhysicsError(workers=1, details=True)
    metric.properties = metric.judged = ("alpha",)
    metric.lines = {"alpha": (1.0, 0.0)}
    rows = torch.tensor([[1.0, 0], [2.0, 0], [90.0, 0], [torch.nan] * 2], dtype=torch.float64)
    figures = metric.errors(rows, torch.zeros(4, 1), torch.tensor([True, True, False, True]))
    assert figures["xtb_mae_alpha"] == pytest.approx(31)
    assert figures["xtb_median_alpha"] == 2
    assert figures["xtb_stable_mae_alpha"] == 1.5


def test_no_molecule_has_no_details() -> None:
    figures = error_details(torch.full((2,), torch.nan), torch.ones(2, dtype=torch.bool), "mu")
    assert torch.tensor([figures["median_mu"], figures["stable_mae_mu"]]).isnan().all()


def test_too_few_real_molecules_calibrate_nothing() -> None:
    with pytest.raises(ValueError, match=r"gave mu for 3 of 3 real molecules.*at least 10"):
        physics().calibrate(torch.ones(3, 3, dtype=torch.float64), torch.ones(3, 3))


def test_perception_and_formula_agree_on_simple_molecules() -> None:
    for smiles in ("CCO", "C=O", "CC#N", "CNC", "CF"):
        numbers, positions = geometries(smiles)
        found = canonical_smiles(molecule(numbers[0], positions[0]))
        assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(Chem.MolFromSmiles(found)))) == Chem.CanonSmiles(smiles)
