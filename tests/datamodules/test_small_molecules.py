"""The enumerated molecules: their number, geometries, labels and splits."""

from __future__ import annotations

import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem.Descriptors import MolWt

from tag_lightning.chemistry import canonical_smiles, is_available, stable_atoms, xtb, xtb_properties
from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.datamodules import reference_smiles as reference
from tag_lightning.datamodules import small_molecules as module
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.enumeration import VALENCE, small_molecules

# Written down once, so that a change of the rules is seen.
COUNTS = {1: 1, 2: 10, 3: 31, 4: 175, 5: 767}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SmallMoleculesDataModule:
    """Molecules of up to four heavy atoms, prepared once."""
    return SmallMoleculesDataModule(4, cache=str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(("heavy", "count"), COUNTS.items())
def test_as_many_molecules_as_ever_and_each_once(heavy: int, count: int) -> None:
    names = small_molecules(heavy)
    assert len(names) == len(set(names)) == count
    assert names == sorted(names)


def test_every_molecule_is_canonical_and_of_the_usual_valencies() -> None:
    for name in small_molecules(5):
        mol = Chem.MolFromSmiles(name)
        assert Chem.MolToSmiles(mol) == name
        assert "." not in name
        assert mol.GetNumAtoms() <= 5
        Chem.Kekulize(mol, clearAromaticFlags=True)
        for atom in mol.GetAtoms():
            orders = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
            assert orders + atom.GetTotalNumHs() == VALENCE[atom.GetAtomicNum()]
            assert not atom.GetFormalCharge()
            assert not atom.GetNumRadicalElectrons()


def test_molecules_of_two_heavy_atoms() -> None:
    assert small_molecules(2) == ["C", "C#C", "C#N", "C=C", "C=N", "C=O", "CC", "CF", "CN", "CO"]


@pytest.mark.parametrize("heavy", [0, 8, -1])
def test_too_many_or_few_heavy_atoms_are_refused(heavy: int) -> None:
    with pytest.raises(ValueError, match=rf"must lie in 1 \.\. 7, got {heavy}"):
        small_molecules(heavy)


def test_splits_share_nothing_and_have_all(data: SmallMoleculesDataModule) -> None:
    splits: tuple[Split, ...] = ("train", "val", "test")
    names = [data.table(split).molecules.smiles for split in splits]  # type: ignore[attr-defined]
    assert sorted(chain(*names)) == small_molecules(4)
    halves = [
        SmallMoleculesDataModule(4, cache=str(data.cache), half=half).table("train").molecules.smiles  # type: ignore
        for half in ("first", "second")
    ]
    assert halves[0] + halves[1] == names[0]


def test_batches_are_centred_masked_and_one_hot(data: SmallMoleculesDataModule) -> None:
    batch = data.table("train")[list(range(50))]
    mask = batch.inputs["mask"]
    assert batch.x.shape == (*mask.shape, 8)
    assert not batch.x[~mask].any()
    assert batch.x[..., :3].sum(1).abs().max() < 1e-5
    assert batch.x[..., 3:][mask].sort(-1).values.eq(torch.tensor([0, 0, 0, 0, 0.25])).all()
    assert batch.attributes.keys() == {"alpha", "mu"}
    assert data.table("train")[[]].x.shape == (0, 1, 8)


def test_geometries_are_those_of_stable_molecules(data: SmallMoleculesDataModule) -> None:
    numbers, positions = data.molecules.numbers, data.molecules.positions
    stable = stable_atoms(numbers, positions)[numbers > 0]
    assert stable.float().mean() > 0.95


def test_known_molecules_are_perceived_from_geometries(data: SmallMoleculesDataModule) -> None:
    known = data.reference_smiles()
    names = data.table("train").molecules.smiles  # type: ignore[attr-defined]
    spelled = {canonical_smiles(Chem.AddHs(Chem.MolFromSmiles(name))) for name in names}
    assert len(known & spelled) > 0.8 * len(names)
    assert len(known) <= len(names)
    assert len(data.reference_smiles("test")) <= len(data.table("test"))  # type: ignore[arg-type]


def test_known_molecules_are_kept_and_perceived_anew_where_the_file_is_cut(
    data: SmallMoleculesDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = data.table("val").molecules  # type: ignore[attr-defined]
    made = reference.reference_smiles(some, tmp_path, "some")
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:end])
        assert reference.reference_smiles(some, tmp_path, "some") == made
        assert path.read_text() == whole
    monkeypatch.setattr(reference, "in_parallel", None)
    assert reference.reference_smiles(some, tmp_path, "some") == made


def test_nothing_is_prepared_twice(data: SmallMoleculesDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    data.prepare_data()
    monkeypatch.setattr(module, "prepared_molecules", None)
    again = SmallMoleculesDataModule(4, cache=str(data.cache))
    again.prepare_data()
    assert torch.equal(again.molecules.positions, data.molecules.positions)


def test_no_cache_and_fewer_molecules() -> None:
    with pytest.warns(UserWarning, match=r"\d+ of 31 molecules were left out: .*, \d+ more than 9 atoms \(first: "):
        small = SmallMoleculesDataModule(3, cache=None, elements=("H", "C", "N", "O"), max_atoms=9).molecules
    assert int(small.sizes.max()) <= 9
    assert 9 not in small.numbers


def test_splits_stay_where_properties_or_sizes_leave_some_out(data: SmallMoleculesDataModule) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        narrow = SmallMoleculesDataModule(4, cache=None, properties=["MolWt"], max_atoms=10, half="second")
        chosen = narrow.table("train").molecules.smiles  # type: ignore[attr-defined]
    wide = SmallMoleculesDataModule(4, cache=str(data.cache), half="second").table("train").molecules  # type: ignore
    assert chosen == tuple(s for s, n in zip(wide.smiles, wide.sizes, strict=True) if n <= 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"properties": ["gap"]}, r"no label 'gap'.*physics=true"),
        ({"properties": ["MolWeight"]}, r"no label 'MolWeight'.*Close names: .*MolWt"),
        ({"elements": ["H", "Xx"]}, r"'Xx' is not an element"),
        ({"max_atoms": 0}, r"max_atoms must be at least 1, got 0"),
        ({"max_heavy_atoms": 1}, r"1 of 1 molecules can be used; the splits need at least 10"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallMoleculesDataModule(**{"max_heavy_atoms": 3, "cache": None} | arguments).prepare_data()


def test_physics_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("GFN2-xTB needs the package tblite")

    monkeypatch.setattr(xtb, "_calculator_class", missing)
    with pytest.raises(ImportError, match="tblite"):
        SmallMoleculesDataModule(3, cache=None, properties=["gap"], physics=True).prepare_data()


@pytest.mark.skipif(not is_available(), reason="needs tblite")
def test_labels_by_physics_are_those_of_the_geometry() -> None:
    small = SmallMoleculesDataModule(3, cache=None, properties=["gap", "mu", "MolWt"], physics=True).molecules
    expected = xtb_properties(small.numbers[7].numpy(), small.positions[7].double().numpy(), ["gap", "mu"])
    for name, value in expected.items():
        assert np.isclose(small.properties[name][7], value, atol=1e-4)
    weights = [MolWt(Chem.MolFromSmiles(s)) for s in small.smiles]
    assert np.allclose(small.properties["MolWt"], weights)
