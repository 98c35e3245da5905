"""Damaged or mismatched files of QM9 are named, with the row."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from qm9_layouts import module, molecules, write_sdf, write_xyz


def cut(text: str, share: float) -> str:
    return text[: int(len(text) * share)]


def drop_line(text: str, number: int) -> str:
    lines = text.split("\n")
    return "\n".join(lines[:number] + lines[number + 1 :])


def change_line(text: str, number: int, old: str, new: str) -> str:
    lines = text.split("\n")
    return "\n".join([*lines[:number], lines[number].replace(old, new, 1), *lines[number + 1 :]])


SDF_DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "another name": (lambda t: t.replace("gdb_7\n", "gdb_8\n"), r"molecule 3 is called 'gdb_8'.*row 3 .*'gdb_7'"),
    "cut within a molecule": (lambda t: cut(t, 0.5), r"gdb9\.sdf ends within the molecule 'gdb_\d+'"),
    "cut after a molecule": (lambda t: cut(t, 0.5).rsplit("gdb_", 1)[0], r"ends after \d+ molecules, but .*row"),
    "an atom less": (lambda t: drop_line(t, 5), r"molecule 1 \(gdb_1\): the counts line gives"),
    "no number": (lambda t: change_line(t, 4, ".", "x"), r"molecule 1 \(gdb_1\): could not convert"),
    "no element": (lambda t: change_line(t, 4, " C ", " Xx"), r"\(gdb_1\): 'Xx' is not an element"),
    "nothing": (lambda t: "", r"ends after 0 molecules"),
}
TABLE_DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "a row less": (lambda t: drop_line(t, 40), r"csv ends after 39 rows, but .* continues with 'gdb_118'"),
    "a row cut": (lambda t: t.rstrip("\n").rsplit(",", 3)[0], r"csv, row 40: 14 cells under 17 columns"),
    "a cell": (lambda t: t.replace("gdb_4,", "gdb_4,x"), r"csv, row 2: 'x.*' is not a number"),
    "an identity": (lambda t: t.replace("gdb_4,", "four,"), r"csv, row 2: mol_id is 'four'"),
    "a column": (lambda t: t.replace(",mu,", ",nu,"), r"has no column 'mu'"),
    "nothing": (lambda t: "", r"has no column 'mol_id'"),
}
DAMAGE = [("gdb9.sdf", *case) for case in SDF_DAMAGE.values()]
DAMAGE += [("gdb9.sdf.csv", *case) for case in TABLE_DAMAGE.values()]


@pytest.mark.parametrize(("name", "change", "message"), DAMAGE)
def test_damage_to_tables_and_molecules_is_named(
    name: str, change: Callable[[str], str], message: str, tmp_path: Path
) -> None:
    write_sdf(tmp_path, molecules())
    text = (tmp_path / name).read_text()
    assert change(text) != text
    (tmp_path / name).write_text(change(text))
    with pytest.raises(ValueError, match=message) as raised:
        module(tmp_path).prepare_data()
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_molecule_that_occurs_twice_is_named(tmp_path: Path) -> None:
    some = molecules()
    with pytest.raises(ValueError, match=r"has gdb_1 twice"):
        module(write_sdf(tmp_path, [*some, some[0]])).prepare_data()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: cut(t, 0.5), r"dsgdb9nsd_000007\.xyz: \d+ lines for \d+ atoms, expected"),
        (lambda t: "", r"dsgdb9nsd_000007\.xyz: list index"),
        (lambda t: t.replace("gdb 7", "gdb 8"), r"dsgdb9nsd_000007\.xyz: it holds gdb_8"),
        (lambda t: t.replace("gdb 7", "gdb 7\t1.0"), r"its second line has 18 words"),
        (lambda t: t.replace("*^-3", "*^x", 1), r"dsgdb9nsd_000007\.xyz: could not convert"),
        (lambda t: t.replace("C\t", "Xx\t", 1), r"'Xx' is not an element"),
    ],
)
def test_damage_to_single_files_is_named(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    path = write_xyz(tmp_path, molecules()) / "dsgdb9nsd_000007.xyz"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        module(tmp_path).prepare_data()


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        archive.add(write_xyz(tmp_path / "a" / "b", molecules(400)), "xyz")
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"no archive", b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"cannot read the archive .*tar\.bz2"):
            module(tmp_path).prepare_data()
