"""SD files are read back unchanged; broken records are located and explained."""

import os
from pathlib import Path

import pytest
import torch
from geometries import STABLE, geometry
from rdkit import Chem

from tag_lightning.chemistry import canonical_smiles, molecule, read_sdf, write_sdf

NAMES = ["methane", "ethene", "hydrogen cyanide"]


def write(path: Path, names: list[str] = NAMES) -> None:
    write_sdf(path, [molecule(*geometry(name)) for name in names], [{"k": float(k)} for k in range(len(names))])


def test_molecules_positions_and_fields_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "molecules.sdf"
    mols = [molecule(*geometry(name)) for name in STABLE]
    write_sdf(path, mols, [{"alpha": 0.1 + 0.2, "SMILES": name} for name in STABLE])
    records = list(read_sdf(path))
    assert [index for index, _, _ in records] == list(range(len(STABLE)))
    assert {reason for _, _, reason in records} == {""}
    for name, mol, (_, read, _) in zip(STABLE, mols, records, strict=True):
        assert read is not None
        assert canonical_smiles(read) == canonical_smiles(mol)
        positions = torch.tensor(read.GetConformer().GetPositions())
        torch.testing.assert_close(positions, geometry(name)[1], atol=5.1e-5, rtol=0)
        assert float(read.GetProp("alpha")) == 0.1 + 0.2
        assert read.GetProp("SMILES") == name
    assert os.listdir(path.parent) == ["molecules.sdf"]


def test_rdkit_reads_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    write(tmp_path / "ours.sdf")
    theirs = list(Chem.SDMolSupplier(str(tmp_path / "ours.sdf"), removeHs=False))
    assert [mol.GetNumAtoms() for mol in theirs] == [5, 6, 3]
    aromatic = Chem.AddHs(Chem.MolFromSmiles("c1ccccc1O"))
    with Chem.SDWriter(str(tmp_path / "theirs.sdf")) as writer:
        writer.write(aromatic)
    write_sdf(tmp_path / "again.sdf", [aromatic])
    for name in ("theirs.sdf", "again.sdf"):
        ((_, mol, _),) = read_sdf(tmp_path / name)
        assert mol is not None
        assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(aromatic)


def test_no_molecules_are_an_empty_file(tmp_path: Path) -> None:
    write_sdf(tmp_path / "none.sdf", [])
    assert list(read_sdf(tmp_path / "none.sdf")) == []


def test_a_file_cut_anywhere_loses_only_its_last_record(tmp_path: Path) -> None:
    write(tmp_path / "whole.sdf")
    text = (tmp_path / "whole.sdf").read_text()
    last = text.index("$$$$") + 5
    last = text.index("$$$$", last) + 5
    for end in range(last + 1, len(text.rstrip()), 7):
        (tmp_path / "cut.sdf").write_text(text[:end])
        records = list(read_sdf(tmp_path / "cut.sdf"))
        assert [mol is not None for _, mol, _ in records[:2]] == [True, True]
        # A cut within the title, which is blank, leaves nothing of the record to miss.
        assert all(mol is None and "ends within this record" in reason for _, mol, reason in records[2:])
        assert len(records) == 3 or not text[last:end].strip()
    (tmp_path / "cut.sdf").write_text(text.rstrip())
    assert len([mol for _, mol, _ in read_sdf(tmp_path / "cut.sdf") if mol is not None]) == 3


def test_a_broken_record_does_not_spoil_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "whole.sdf", ["methane"] * 4)
    records = (tmp_path / "whole.sdf").read_text().split("$$$$\n")[:-1]
    records[1] = records[1].replace("M  END\n", "")
    records[2] = records[2].replace("  5  4", "  9  4", 1)
    records[3] = records[3].replace(" C ", " F ")
    (tmp_path / "broken.sdf").write_bytes("".join(r + "$$$$\n" for r in records).replace("\n", "\r\n").encode())
    got = list(read_sdf(tmp_path / "broken.sdf"))
    assert [mol is not None for _, mol, _ in got] == [True, False, False, False]
    assert ["'M  END'" in got[1][2], "malformed" in got[2][2], "RDKit refuses" in got[3][2]] == [True] * 3
    assert [mol is not None for _, mol, _ in read_sdf(tmp_path / "broken.sdf", sanitize=False)][3]
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"SD file .*none\.sdf does not exist; check the path"):
        read_sdf(tmp_path / "none.sdf")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write into .*file.*check this folder"):
        write(tmp_path / "file" / "out.sdf")


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "molecules.sdf"
    write(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(path, ["water"])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["molecules.sdf"]


@pytest.mark.parametrize(("name", "value"), [("a>b", 1.0), ("", 1.0), ("a", "two\nlines"), ("a", "")])
def test_fields_that_would_break_the_format_are_refused(tmp_path: Path, name: str, value: float | str) -> None:
    with pytest.raises(ValueError, match="Molecule 0 has the field"):
        write_sdf(tmp_path / "x.sdf", [molecule(*geometry("water"))], [{name: value}])
    with pytest.raises(ValueError, match="1 molecules came with 2"):
        write_sdf(tmp_path / "x.sdf", [molecule(*geometry("water"))], [{}, {}])
    assert not list(tmp_path.iterdir())
