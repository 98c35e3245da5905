"""QM9 in either layout: the same molecules, values and splits; damage is named."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from qm9_layouts import NAMES, Molecule, module, molecules, write_sdf, write_xyz

from tag_lightning.datamodules import qm9, qm9_files
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.molecule_store import Molecules

SPLITS: tuple[Split, ...] = ("train", "val", "test")
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "qm9_xtb.zip"


def test_all_layouts_give_the_same_molecules_in_the_same_splits(tmp_path: Path) -> None:
    some = molecules()
    shuffled = [some[i] for i in np.random.default_rng(1).permutation(len(some))]
    roots = [write_sdf(tmp_path / "sdf", shuffled), write_sdf(tmp_path / "inner" / "qm9_xtb", some).parent]
    roots.append(write_xyz(tmp_path / "xyz", some))
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as archive:
        for m in shuffled:
            archive.add(tmp_path / "xyz" / f"dsgdb9nsd_{m.number:06d}.xyz", f"./dsgdb9nsd_{m.number:06d}.xyz")
    roots.append(tmp_path / "tar")
    for split in SPLITS:
        for half in (None, "first", "second"):
            batches = []
            for root in roots:
                table = module(root, properties=NAMES, half=half).table(split)
                batches.append(table[list(range(len(table)))])  # type: ignore[arg-type]
            for batch in batches[1:]:
                torch.testing.assert_close(batch.x, batches[0].x, atol=1e-6, rtol=0)
                assert torch.equal(batch.inputs["mask"], batches[0].inputs["mask"])
                assert all(torch.equal(batch.attributes[name], batches[0].attributes[name]) for name in NAMES)


@pytest.mark.parametrize("write", [write_sdf, write_xyz])
def test_molecules_come_sorted_with_their_properties_in_our_units(
    write: Callable[[Path, list[Molecule]], Path], tmp_path: Path
) -> None:
    some = molecules()
    found = module(write(tmp_path, some), properties=NAMES).molecules
    ours = {"homo", "lumo", "gap", "u0", "u298", "h298", "g298"}
    for row, m in enumerate(some):
        assert int(found.sizes[row]) == len(m.symbols)
        centred = torch.tensor(m.positions - m.positions.mean(0), dtype=torch.float32)
        torch.testing.assert_close(found.positions[row, : len(m.symbols)], centred, atol=1e-5, rtol=0)
        for name, value in zip(NAMES, m.values, strict=True):
            factor = 27.2114 if name in ours else 27211.4 if name == "zpve" else 1.0
            assert float(found.properties[name][row]) == pytest.approx(value * factor, rel=1e-9)


def test_the_splits_and_halves_of_all_molecules_are_those_of_edm(tmp_path: Path) -> None:
    splits = module(tmp_path).split(130_831)
    np.random.seed(0)
    order = np.random.permutation(130_831)
    expected = np.split(order, [100_000, 117_748])
    for split, part in zip(SPLITS, expected, strict=True):
        assert np.array_equal(splits[split].numpy(), np.sort(part))
    assert [len(splits[split]) for split in SPLITS] == [100_000, 17_748, 13_083]
    np.random.seed(42)
    order = np.random.permutation(list(range(100_000)))
    first, second = module(tmp_path).halves(100_000)
    assert np.array_equal(first.numpy(), order[:50_000])
    assert np.array_equal(second.numpy(), order[50_000:])


@pytest.mark.parametrize("count", [10, 11, 100, 999, 15_776])
def test_splits_of_fewer_molecules_have_the_same_proportions(count: int, tmp_path: Path) -> None:
    splits = module(tmp_path).split(count)
    together = torch.cat(list(splits.values()))
    assert torch.equal(together.sort().values, torch.arange(count))
    for split, share in zip(SPLITS, (100_000, 17_748, 13_083), strict=True):
        assert abs(len(splits[split]) - count * share / 130_831) <= 2


def test_the_uncharacterised_are_removed(tmp_path: Path) -> None:
    some = molecules()
    write_sdf(tmp_path / "inner", some)
    listed = [some[3].number, some[17].number, 130_000]
    text = "These did not pass\n\nIndex  SMILES\n" + "".join(f"  {n:5d}   C=O  CO  0.1\n" for n in listed) + "=====\n"
    (tmp_path / "uncharacterized.txt").write_text(text)
    found = module(tmp_path, properties=["mu"]).molecules
    assert found.properties["mu"].tolist() == [m.values[3] for m in some if m.number not in listed]
    (tmp_path / "uncharacterized.txt").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"uncharacterized\.txt does not list any molecule"):
        module(tmp_path).prepare_data()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"QM9 is not in .*nowhere.*download=true"):
        module(tmp_path / "nowhere").prepare_data()
    write_sdf(tmp_path, molecules())
    with pytest.raises(ValueError, match=r"Unknown property 'moo'.*mu"):
        module(tmp_path, properties=["moo"])
    text = (tmp_path / "gdb9.sdf.csv").read_text()
    (tmp_path / "gdb9.sdf.csv").write_text(re.sub(r"^(gdb_\d+(,[^,]*){3}),[^,]*", r"\1,", text, flags=re.M))
    with pytest.raises(ValueError, match=r"no values of the property 'mu', only of A, B, C, alpha"):
        module(tmp_path).prepare_data()
    assert len(module(tmp_path, properties=["alpha"]).molecules) == 40
    (tmp_path / "gdb9.sdf.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"gdb9\.sdf lacks its table .*gdb9\.sdf\.csv"):
        module(tmp_path).prepare_data()


def test_single_bad_molecules_are_left_out_and_listed(tmp_path: Path) -> None:
    some = molecules()
    nan, no_value, chlorine = [k for k, m in enumerate(some) if len(m.symbols) < 12][3:6]
    some[nan].positions[1, 1] = np.nan
    some[no_value].values[3] = float("nan")
    some[chlorine].symbols[0] = "Cl"
    data = module(write_sdf(tmp_path, some), tmp_path / "cache", max_atoms=11)
    large = sum(len(m.symbols) > 11 for m in some)
    with pytest.warns(UserWarning, match=rf"{3 + large} of 40 molecules were left out: .*1 no value of mu"):
        data.prepare_data()
    lines = (tmp_path / "cache" / "qm9-skipped.csv").read_text().splitlines()
    assert lines[0] == "molecule,reason"
    assert len(lines) == 1 + 3 + large
    assert f"molecule {nan},coordinates that are not finite" in lines
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_cache_is_used_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sdf(tmp_path / "data", molecules())
    reads = []
    read = qm9_files.read_layout

    def counted(*arguments: object) -> object:
        reads.append(1)
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(qm9_files, "read_layout", counted)
    for properties in (["mu"], ["alpha", "gap"]):
        module(tmp_path / "data", tmp_path / "cache", properties=properties).prepare_data()
    assert len(reads) == 1
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    module(tmp_path / "data", tmp_path / "cache").prepare_data()
    assert len(reads) == 2
    os.utime(tmp_path / "data" / "gdb9.sdf", (1, 1))
    module(tmp_path / "data", tmp_path / "cache").prepare_data()
    assert len(reads) == 3


def test_unlabelled_molecules_are_kept_on_demand(tmp_path: Path) -> None:
    some = molecules()
    for k in (0, 5, 7):
        some[k].values[NAMES.index("gap")] = float("nan")
    some[9].values[NAMES.index("gap")] = float("inf")
    write_sdf(tmp_path, some)
    with pytest.warns(UserWarning, match=r"4 of 40 molecules were left out: 4 no value of gap"):
        assert len(module(tmp_path, properties=["alpha", "gap"]).molecules) == 36
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(module(tmp_path, properties=["alpha"]).molecules) == 40
    data = module(tmp_path, properties=["alpha", "gap"], unlabelled=True)
    with pytest.warns(UserWarning, match=r"1 of 40 molecules were left out"):
        data.prepare_data()
    assert len(data.molecules) == 39
    assert data.molecules.properties["gap"].isnan().nonzero()[:, 0].tolist() == [0, 5, 7]
    assert bool(data.molecules.properties["alpha"].isfinite().all())


def test_the_listed_test_molecules_are_held_out_whatever_else_is_left_out(tmp_path: Path) -> None:
    some = molecules()
    listed = [m.number for m in some[::7]]
    write_sdf(tmp_path / "data", some)
    path = tmp_path / "test.npz"
    np.savez(path, index=np.array([*listed, 130_000]))
    some[7].values[NAMES.index("alpha")] = float("nan")
    write_sdf(tmp_path / "gaps", some)
    held: dict[str, dict[str, set[float]]] = {}
    for root in ("data", "gaps"):
        with nullcontext() if root == "data" else pytest.warns(UserWarning, match="1 no value of alpha"):
            tables = [
                module(tmp_path / root, tmp_path / "cache", properties=["alpha"], test_molecules=str(path)).table(split)
                for split in SPLITS
            ]
        columns = [table.attributes["alpha"].tolist() for table in tables]  # type: ignore[attr-defined]
        held[root] = {split: set(column) for split, column in zip(SPLITS, columns, strict=True)}
    alpha = np.array([m.values[NAMES.index("alpha")] for m in molecules()], np.float32)
    assert held["data"]["test"] == set(alpha[::7].tolist())
    assert [len(held["data"][split]) for split in SPLITS] == [28, 6, 6]
    assert set.union(*held["data"].values()) == set(alpha.tolist())
    # A molecule without a label leaves its split and moves no other one.
    for split in SPLITS:
        assert held["gaps"][split] == held["data"][split] - {float(alpha[7])}
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist; set data\.init_args\.test_molecules"):
        module(tmp_path / "data", test_molecules=str(tmp_path / "nowhere.npz"))
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match=r"array 'index' of .*test\.npz"):
        module(tmp_path / "data", properties=["alpha"], test_molecules=str(path)).prepare_data()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, served over HTTP, that stands in for the authors' collection."""
    folder = tmp_path / "official"
    write_xyz(folder / "xyz", molecules())
    with tarfile.open(folder / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as archive:
        archive.add(folder / "xyz", "xyz")
    (folder / "uncharacterized.txt").write_text("1 C\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        files = [
            file._replace(
                url=f"http://127.0.0.1:{server.server_port}/{file.name}",
                md5=hashlib.md5((folder / file.name).read_bytes()).hexdigest(),
            )
            for file in qm9.OFFICIAL
        ]
        monkeypatch.setattr(qm9, "OFFICIAL", files)
        yield folder
        server.shutdown()
        thread.join()


def test_files_are_downloaded_once_and_only_if_configured(official: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(FileNotFoundError, match="download=true"):
        module(root).prepare_data()
    for _ in range(2):
        data = module(root, download=True)
        data.prepare_data()
        assert len(data.molecules) == 39
        assert sorted(file.name for file in root.iterdir()) == ["dsgdb9nsd.xyz.tar.bz2", "uncharacterized.txt"]
        (official / "dsgdb9nsd.xyz.tar.bz2").write_bytes(b"changed")


def test_a_damaged_download_is_not_kept(official: Path, tmp_path: Path) -> None:
    path = official / "dsgdb9nsd.xyz.tar.bz2"
    path.write_bytes(path.read_bytes()[:-10])
    named = r"cannot download dsgdb9nsd\.xyz\.tar\.bz2 with MD5 [0-9a-f]{32} from http:"
    with pytest.raises(OSError, match=named + r".*corrupted") as raised:
        module(tmp_path / "root", download=True).prepare_data()
    assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(OSError, match=named + r".*404"):
        module(tmp_path / "root", download=True).prepare_data()
    assert [file.name for file in (tmp_path / "root").iterdir()] == ["uncharacterized.txt"]


@pytest.mark.skipif(not DATA.is_file(), reason="needs the data beside the repository")
def test_the_real_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA) as archive:
        archive.extractall(tmp_path)
    data = module(tmp_path, tmp_path / "cache", properties=["mu", "alpha", "homo", "gap"])
    data.prepare_data()
    assert len(data.molecules) == 15_776
    assert [len(data.table(split)) for split in SPLITS] == [12_058, 2_141, 1_577]  # type: ignore[arg-type]
    first = {name: float(values[0]) for name, values in data.molecules.properties.items()}
    expected = {"mu": 4.3335, "alpha": 20.435, "homo": -0.39508 * 27.2114, "gap": 0.18458 * 27.2114}
    assert first == pytest.approx(expected, rel=1e-6)
    assert data.molecules.numbers[0, :9].tolist() == [6, 6, 7, 8, 1, 1, 1, 1, 1]
    rows = [data.table(split).molecules.positions.sum(1) for split in SPLITS]  # type: ignore[attr-defined]
    assert sum(map(len, rows)) == 15_776
    assert data.sample_shape == (int(data.molecules.sizes.max()), 8)
    guide, judge = (
        module(tmp_path, tmp_path / "cache", properties=names, half=half).table("train").molecules  # type: ignore
        for half, names in (("first", ["mu"]), ("second", ["alpha", "gap"]))
    )
    shared = [{x.numpy().tobytes() for x in half.positions[:, :6]} for half in (guide, judge)]
    # The files have three molecules twice.
    assert len(shared[0] & shared[1]) <= 3
    assert len(guide) + len(judge) == 12_058


@pytest.mark.slow
@pytest.mark.skipif(not (DATA.parent / "qm9_b3lyp.tar.xz").is_file(), reason="needs the data beside the repository")
def test_the_real_copy_without_fluorine(tmp_path: Path) -> None:
    with tarfile.open(DATA.parent / "qm9_b3lyp.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    listed = DATA.parent / "qm9_test_edm.npz"

    def split(properties: list[str], split: Split, **arguments: object) -> Molecules:
        data = module(tmp_path, tmp_path / "cache", properties=properties, test_molecules=str(listed), **arguments)
        return data.table(split).molecules  # type: ignore[attr-defined]

    with pytest.warns(UserWarning, match="106 of 128744 molecules were left out: 106 no value of gap"):
        labelled = [split(["alpha", "gap"], name) for name in SPLITS]
    everything = [split(["alpha", "gap"], name, unlabelled=True) for name in SPLITS]
    assert sum(map(len, labelled)) == 128_638
    assert sum(map(len, everything)) == 128_744
    with np.load(listed) as edm:
        index, alpha, gap = torch.from_numpy(edm["index"]), edm["alpha"], edm["gap"]
    train, val, test = (part.identities for part in everything)
    assert train is not None
    assert val is not None
    assert test is not None
    assert not torch.isin(torch.cat((train, val)), index).any()
    assert torch.isin(test, index).all()
    rows = torch.searchsorted(index, test)
    ours = everything[2].properties
    torch.testing.assert_close(ours["alpha"], torch.from_numpy(alpha).double()[rows], rtol=0, atol=1e-4)
    known = ours["gap"].isfinite()
    expected = torch.from_numpy(gap).double()[rows] * 27.2114
    torch.testing.assert_close(ours["gap"][known], expected[known], rtol=0, atol=1e-4)
