"""SMILES and SD files: reading, embedding, labels, skipped molecules."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem.Descriptors import MolLogP, MolWt

from tag_lightning.chemistry import (
    canonical_smiles,
    embedding,
    is_available,
    rdkit_labels,
    write_sdf,
    xtb,
    xtb_properties,
)
from tag_lightning.chemistry.embedding import embed
from tag_lightning.datamodules import MoleculeFilesDataModule, geometries, molecule_files

SMILES = ["C", "CC", "CO", "CN", "C#N", "C=O", "CCO", "CCN", "C1CC1", "c1ccccc1", "CF", "O=CCO"]
# Carbons bound so closely that no geometry has room for them.
CROWDED = "C1(C2)(C3)C4C5C1C6C2C3C4C56"


def module(path: Path, **arguments: object) -> MoleculeFilesDataModule:
    return MoleculeFilesDataModule(str(path), **{"cache": None} | arguments)  # type: ignore[arg-type]


def lines(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("head", [[], ["smiles"], ["SMILES name"], ["", "  "]])
@pytest.mark.parametrize("kind", ["smi", "txt"])
def test_a_smiles_a_line_with_or_without_header_and_names(head: list[str], kind: str, tmp_path: Path) -> None:
    path = lines(tmp_path / f"some.{kind}", [*head, *(f"{s}\tname {k}" for k, s in enumerate(SMILES))])
    found = module(path).molecules
    assert list(found.smiles) == SMILES
    assert found.sizes.tolist() == [Chem.AddHs(Chem.MolFromSmiles(s)).GetNumAtoms() for s in SMILES]
    assert found.properties.keys() == {"alpha", "mu"}


def test_columns_are_labels_and_other_names_are_computed(tmp_path: Path) -> None:
    rows = ["name,Smiles , toxicity", *(f'"a, b",{s},{k / 10}' for k, s in enumerate(SMILES))]
    found = module(lines(tmp_path / "some.csv", rows), properties=["toxicity", "MolWt", "MolLogP"]).molecules
    assert found.properties["toxicity"].tolist() == [k / 10 for k in range(len(SMILES))]
    for name, function in (("MolWt", MolWt), ("MolLogP", MolLogP)):
        expected = [function(Chem.AddHs(Chem.MolFromSmiles(s))) for s in SMILES]
        assert np.allclose(found.properties[name], expected)


def test_a_column_goes_before_what_could_be_computed(tmp_path: Path) -> None:
    rows = ["smiles,mu", *(f"{s},{k}" for k, s in enumerate(SMILES))]
    found = module(lines(tmp_path / "some.csv", rows), properties=["mu"], physics=True).molecules
    assert found.properties["mu"].tolist() == list(range(len(SMILES)))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """An SD file of molecules with geometries and a field."""
    mols = [embed(Chem.MolFromSmiles(s)) for s in SMILES]
    write_sdf(tmp_path / "some.sdf", mols, [{"toxicity": k / 10} for k in range(len(mols))])
    return tmp_path / "some.sdf"


def test_geometries_and_fields_of_records_are_kept(records: Path) -> None:
    found = module(records, properties=["toxicity", "mu"]).molecules
    assert found.properties["toxicity"].tolist() == [k / 10 for k in range(len(SMILES))]
    for row, s in enumerate(SMILES):
        mol = embed(Chem.MolFromSmiles(s))
        expected = torch.tensor(mol.GetConformer().GetPositions(), dtype=torch.float32)
        kept = found.positions[row, : mol.GetNumAtoms()]
        torch.testing.assert_close(kept, expected - expected.mean(0), atol=1e-4, rtol=0)
        assert float(found.properties["mu"][row]) == pytest.approx(rdkit_labels(mol, ["mu"])["mu"], abs=1e-3)


def test_records_without_a_geometry_get_one_and_lacking_hydrogens_are_added(tmp_path: Path) -> None:
    flat = [Chem.MolFromSmiles(s) for s in SMILES]
    write_sdf(tmp_path / "flat.sdf", flat)
    write_sdf(tmp_path / "bare.sdf", [Chem.RemoveHs(embed(mol)) for mol in flat if mol.GetNumAtoms() > 2])
    embedded = module(tmp_path / "flat.sdf").molecules
    torch.testing.assert_close(embedded.positions, module(lines(tmp_path / "s.smi", SMILES)).molecules.positions)
    with pytest.raises(ValueError, match="at least 10"):
        module(tmp_path / "bare.sdf").prepare_data()
    write_sdf(tmp_path / "bare.sdf", [Chem.RemoveHs(embed(Chem.MolFromSmiles("CCO")))] * 10)
    completed = module(tmp_path / "bare.sdf").molecules
    assert completed.sizes.tolist() == [9] * 10
    heavy = torch.tensor(embed(Chem.MolFromSmiles("CCO")).GetConformer().GetPositions()[:3], dtype=torch.float32)
    kept = completed.positions[0, :3]
    torch.testing.assert_close(torch.cdist(kept, kept), torch.cdist(heavy, heavy), atol=1e-3, rtol=0)


def test_what_cannot_be_used_is_counted_and_listed_in_full(tmp_path: Path) -> None:
    rows = [*SMILES, "not a smiles", "C(C)(C)(C)(C)C", "", CROWDED, "CCl", "[Na+].[Cl-]", "C[*]", "C" * 12]
    data = module(lines(tmp_path / "some.smi", rows), cache=str(tmp_path / "cache"), max_atoms=30)
    with pytest.warns(UserWarning, match=r"7 of 19 molecules were left out: .*2 not a readable SMILES"):
        data.prepare_data()
    with (tmp_path / "cache" / "some-skipped.csv").open(newline="") as file:
        listed = {row["molecule"]: row["reason"] for row in csv.DictReader(file)}
    assert listed["line 13: not"] == "not a readable SMILES"
    assert listed["line 14: C(C)(C)(C)(C)C"] == "not a readable SMILES"
    assert listed[f"line 16: {CROWDED}"] in ("no geometry found", "the relaxation did not converge")
    assert listed["line 17: CCl"] == "an element outside the configured set"
    assert listed[f"line 20: {'C' * 12}"] == "more than 30 atoms"
    assert listed["line 19: C[*]"] == "an atom without an element"
    assert len(listed) == 7
    assert list(data.molecules.smiles) == SMILES
    module(lines(tmp_path / "some.smi", SMILES), cache=str(tmp_path / "cache")).prepare_data()
    assert not (tmp_path / "cache" / "some-skipped.csv").exists()


def test_bad_records_are_left_out_and_listed(records: Path, tmp_path: Path) -> None:
    whole = records.read_text().split("$$$$\n")
    whole[1] = whole[1].replace("V2000", "V9999")
    head, atom, rest = whole[2].partition("\n    ")
    whole[2] = f"{head}{atom}   nan{rest[6:]}"
    records.write_text("$$$$\n".join(whole) + "\ncut\n short\n")
    data = module(records, cache=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match=r"left out"):
        data.prepare_data()
    reasons = (tmp_path / "cache" / "some-skipped.csv").read_text()
    assert "record 2" in reasons
    assert "The file ends within this record" in reasons
    assert [s for s in SMILES if s not in data.molecules.smiles][:1] == ["CC"]


def test_a_gap_in_a_column_leaves_its_molecule_out_and_moves_no_other(tmp_path: Path) -> None:
    many = [f"{'C' * (k % 7 + 1)}{'O' * (k // 7 % 2)}" for k in range(40)]
    rows = ["smiles,a,b", *(f"{s},{k},{'' if k % 4 else k}" for k, s in enumerate(many))]
    path = lines(tmp_path / "some.csv", rows)
    whole = module(path, properties=["a"], half="first").table("train")
    with pytest.warns(UserWarning, match=r"30 of 40 molecules were left out: 30 no value of b"):
        part = module(path, properties=["b"], half="first").table("train")
    kept = [a for a in whole.attributes["a"].tolist() if a % 4 == 0]  # type: ignore[attr-defined]
    assert part.attributes["b"].tolist() == kept  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [10, 11])
def test_the_first_molecules_can_be_taken(count: int, tmp_path: Path) -> None:
    path = lines(tmp_path / "some.smi", [*SMILES[:count], "not a smiles"])
    assert list(module(path, max_molecules=count).molecules.smiles) == SMILES[:count]


def test_the_cache_follows_content_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "some.smi", SMILES)
    cache = str(tmp_path / "cache")
    module(path, cache=cache).prepare_data()
    made = []
    prepared = molecule_files.prepared_molecules

    def counted(*arguments: object) -> object:
        made.append(1)
        return prepared(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(molecule_files, "prepared_molecules", counted)
    path.touch()
    module(path, cache=cache).prepare_data()
    assert not made
    module(path, cache=cache, properties=["MolWt"]).prepare_data()
    lines(path, SMILES[::-1])
    module(path, cache=cache).prepare_data()
    assert len(made) == 2


@pytest.mark.parametrize(
    ("name", "text", "arguments", "error", "message"),
    [
        ("missing.smi", None, {}, FileNotFoundError, r"missing\.smi does not exist"),
        ("some.pdb", "x", {}, ValueError, r"some\.pdb is of an unknown kind; expected .*\.smi, \.txt, \.csv, \.sdf"),
        ("some.smi", "", {}, ValueError, r"some\.smi has no molecules"),
        ("some.sdf", "", {}, ValueError, r"some\.sdf has no molecules"),
        ("some.csv", "", {}, ValueError, r"no column 'smiles' in its first line, only \(none\)"),
        ("some.csv", "a,b\n1,2\n", {}, ValueError, r"no column 'smiles' in its first line, only a, b"),
        ("some.csv", "smiles,a\nC,1\nCC\n", {}, ValueError, r"some\.csv, line 3: 1 cells under 2 columns"),
        ("some.csv", "smiles,a\nC,x1\n", {"properties": ["a"]}, ValueError, r"line 2: a is 'x1', expected a number"),
        ("some.csv", "smiles,a\nC,\n", {"properties": ["a"]}, ValueError, r"no values of the property 'a'"),
        ("some.smi", "C\n", {"properties": ["gap"]}, ValueError, r"no label 'gap'.*have no column.*physics=true"),
        ("some.smi", "C\n", {}, ValueError, r"1 of 1 molecules can be used; the splits need at least 10"),
        (
            "some.smi",
            "C(\n" * 15,
            {},
            ValueError,
            r"0 of 15 molecules can be used \(15 left out: \w.*\); the splits need",
        ),
        (
            "some.csv",
            "smiles,a,a\nC,1,2\n",
            {"properties": ["a"]},
            ValueError,
            r"some\.csv has several columns 'a'; re",
        ),
        ("some.csv", "smiles,SMILES\nC,C\n", {}, ValueError, r"some\.csv has several columns 'smiles'; rename"),
        ("some.smi", "C\n", {"elements": ["H", "C", "C"]}, ValueError, r"elements must be different, got H, C, C"),
        ("some.smi", "C\n", {"max_molecules": 0}, ValueError, r"max_molecules must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    name: str, text: str | None, arguments: dict, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message) as raised:
        module(tmp_path / name, **arguments).prepare_data()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_tables_may_be_separated_by_commas_semicolons_or_tabs(delimiter: str, tmp_path: Path) -> None:
    rows = [delimiter.join(("name", "smiles", "a")), *(f'"x{delimiter}y"{delimiter}{s}{delimiter}1.5' for s in SMILES)]
    found = module(lines(tmp_path / "some.csv", rows), properties=["a"]).molecules
    assert list(found.smiles) == SMILES
    assert set(found.properties["a"].tolist()) == {1.5}


def test_labels_beyond_single_precision_are_left_out_and_others_are_finite(tmp_path: Path) -> None:
    rows = ["smiles,a", "CCC,1e300", "CCCC,-1e300", "CCCO,inf", *(f"{s},1e30" for s in SMILES)]
    data = module(lines(tmp_path / "some.csv", rows), properties=["a"])
    with pytest.warns(UserWarning, match=r"3 of 15 .*2 a value of a beyond single precision, 1 no value of a"):
        assert list(data.molecules.smiles) == SMILES
    assert data.table("train").attributes["a"].isfinite().all()  # type: ignore[attr-defined]


def test_records_whose_coordinates_are_all_zero_are_left_out(records: Path) -> None:
    flagged = embed(Chem.MolFromSmiles("CCCC"))
    for atom in range(flagged.GetNumAtoms()):
        flagged.GetConformer().SetAtomPosition(atom, (0.0, 0.0, 0.0))
    flagged.GetConformer().Set3D(True)
    write_sdf(records.with_name("zero.sdf"), [flagged])
    records.write_text(records.read_text() + records.with_name("zero.sdf").read_text())
    data = module(records)
    with pytest.warns(UserWarning, match=r"1 of 13 .*1 several atoms at the same position \(first: record 13"):
        assert list(data.molecules.smiles) == SMILES


def test_known_molecules_of_sulfur_chlorine_and_phosphorus_are_perceived(tmp_path: Path) -> None:
    names = ["CS", "CSC", "CCl", "CCS", "CP", "CCCl", "CS(C)(=O)=O", "O=P(O)(O)O", "CSCC", "ClCCl", "CBr", "CCBr"]
    data = module(lines(tmp_path / "some.smi", names), elements=["H", "C", "O", "S", "Cl", "P", "Br"])
    known = data.reference_smiles("train")
    own = data.table("train").molecules.smiles  # type: ignore[attr-defined]
    assert known == {canonical_smiles(Chem.AddHs(Chem.MolFromSmiles(name))) for name in own}


def test_limits_apply_before_embedding_and_move_no_molecule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[int] = []

    def counted(mol: Chem.Mol) -> Chem.Mol:
        embedded.append(mol.GetNumAtoms())
        return embed(mol)

    monkeypatch.setattr(geometries, "embed", counted)
    path = lines(tmp_path / "some.smi", ["C" * 240, "CCl", CROWDED, *SMILES * 3, "CCBr"])
    with pytest.warns(UserWarning, match=r"4 of 40 .*2 an element outside .*1 more than 30 atoms"):
        narrow = module(path, max_atoms=30, half="second").table("train").molecules  # type: ignore[attr-defined]
    assert max(embedded) <= 16, "neither the chain nor the halides"
    path = lines(tmp_path / "other.smi", ["CCCC", "CCl", "CCCCC", *SMILES * 3, "CCBr"])
    elements = ("H", "C", "N", "O", "F", "Cl", "Br")
    wide = module(path, elements=elements, half="second").table("train").molecules  # type: ignore[attr-defined]
    assert [s for s in wide.smiles if s in SMILES] == list(narrow.smiles)


def test_embedding_gives_up_after_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_SECONDS", 1)
    started = time.process_time()
    with pytest.raises(embedding.EmbeddingError, match="no geometry found within 1 s"):
        embed(Chem.MolFromSmiles("C" * 240))
    assert time.process_time() - started < 15


def test_a_field_that_is_no_number_is_named(records: Path) -> None:
    records.write_text(records.read_text().replace("\n0.3\n", "\nhigh\n"))
    with pytest.raises(ValueError, match=r"some\.sdf, record 4: toxicity is 'high', expected a number"):
        module(records, properties=["toxicity"]).prepare_data()


def test_physics_without_its_package_says_so_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("GFN2-xTB needs the package tblite")

    monkeypatch.setattr(xtb, "_calculator_class", missing)
    with pytest.raises(ImportError, match="tblite"):
        module(lines(tmp_path / "some.smi", SMILES), properties=["gap"], physics=True).prepare_data()


@pytest.mark.skipif(not is_available(), reason="needs tblite")
def test_physics_labels_the_geometry_that_is_kept(records: Path) -> None:
    found = module(records, properties=["gap", "toxicity"], physics=True).molecules
    n = int(found.sizes[6])
    expected = xtb_properties(found.numbers[6, :n].numpy(), found.positions[6, :n].double().numpy(), ["gap"])
    assert float(found.properties["gap"][6]) == pytest.approx(expected["gap"], abs=1e-4)
    assert float(found.properties["toxicity"][6]) == 0.6
