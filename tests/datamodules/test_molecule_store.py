"""Molecules are read from disk unchanged, or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tag_lightning.content_digest import content_key
from tag_lightning.datamodules.molecule_store import Molecules, cached


@st.composite
def molecules(draw: st.DrawFn) -> Molecules:
    """Up to six molecules of up to nine atoms, with gaps among their properties and names."""
    sizes = draw(st.lists(st.integers(1, 9), max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    geometries = [(rng.integers(1, 10, size), rng.normal(size=(size, 3)) * 5) for size in sizes]
    values = st.floats(-1e6, 1e6) | st.just(float("nan"))
    properties = {
        name: [draw(values) for _ in sizes] for name in draw(st.sets(st.sampled_from(["mu", "alpha", "x.y"])))
    }
    smiles = [draw(st.sampled_from(["", "CC", "[H]C#N"])) for _ in sizes]
    identities = draw(st.none() | st.just([3 * row + 1 for row in range(len(sizes))]))
    skipped = [("bad", "a reason")] * draw(st.integers(0, 2))
    return Molecules.packed(geometries, properties, smiles, skipped, identities)


def require_equal(one: Molecules, other: Molecules) -> None:
    assert torch.equal(one.numbers, other.numbers)
    assert torch.equal(one.positions, other.positions)
    assert one.properties.keys() == other.properties.keys()
    for name, values in one.properties.items():
        torch.testing.assert_close(values, other.properties[name], rtol=0, atol=0, equal_nan=True)
    assert one.smiles == other.smiles
    if one.identities is None or other.identities is None:
        assert one.identities is other.identities
    else:
        assert one.identities.tolist() == other.identities.tolist()


@given(molecules())
def test_what_is_saved_is_loaded_and_under_another_key_is_not(some: Molecules) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "some.safetensors"
        some.save(path, "key")
        loaded = Molecules.load(path, "key")
        assert loaded is not None
        require_equal(some, loaded)
        assert loaded.skipped == some.skipped
        assert Molecules.load(path, "another key") is None
        assert [file.name for file in path.parent.iterdir()] == ["some.safetensors"]


@given(molecules(), st.data())
def test_selected_molecules_are_as_narrow_as_they_can_be(some: Molecules, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(some) - 1), max_size=9)) if len(some) else []
    chosen = some.select(torch.tensor(indices, dtype=torch.long))
    assert chosen.sizes.tolist() == [some.sizes[i] for i in indices]
    assert chosen.numbers.shape[1] == max(chosen.sizes.tolist(), default=0)
    for row, i in enumerate(indices):
        n = int(some.sizes[i])
        assert torch.equal(chosen.numbers[row, :n], some.numbers[i, :n])
        assert torch.equal(chosen.positions[row, :n], some.positions[i, :n])
        assert chosen.smiles[row] == some.smiles[i]
        assert not chosen.positions[row, n:].any()


@given(molecules())
def test_packed_molecules_are_centred_and_padded_with_zeros(some: Molecules) -> None:
    assert torch.equal(some.numbers > 0, torch.arange(some.numbers.shape[1]) < some.sizes[:, None])
    torch.testing.assert_close(some.positions.sum(1), torch.zeros(len(some), 3), atol=2e-5, rtol=0)


@given(molecules(), st.integers(1, 9))
def test_what_cannot_be_used_is_left_out_with_a_reason(some: Molecules, max_atoms: int) -> None:
    elements = (1, 6, 7, 8)
    usable, rows = some.restricted(elements, max_atoms)
    good = [
        i
        for i in range(len(some))
        if set(some.numbers[i].tolist()) <= {0, *elements}
        and int(some.sizes[i]) <= max_atoms
        and all(values[i].isfinite() for values in some.properties.values())
    ]
    assert rows.tolist() == good
    require_equal(usable, some.select(torch.tensor(good, dtype=torch.long)))
    assert len(usable.skipped) == len(some.skipped) + len(some) - len(good)


def test_reasons_say_what_is_wrong() -> None:
    geometry = np.zeros((2, 3))
    some = Molecules.packed(
        [([1, 17], geometry), ([1, 1], geometry * np.nan), ([6] * 3, np.zeros((3, 3))), ([1, 1], geometry)],
        {"mu": [0.0, 0.0, 0.0, float("nan")]},
        ["Cl", "", "", ""],
    )
    assert some.restricted((1, 6), 2)[0].skipped == (
        ("Cl", "an element outside the configured set"),
        ("molecule 1", "coordinates that are not finite"),
        ("molecule 2", "more than 2 atoms"),
        ("molecule 3", "no value of mu"),
    )


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_a_cache_that_was_cut_short_is_made_anew(keep: float, tmp_path: Path) -> None:
    some = Molecules.packed([(np.array([6, 1, 1]), np.eye(3))] * 20, {"mu": [1.0] * 20}, ["C"] * 20)
    made: list[Molecules] = []

    def build() -> Molecules:
        made.append(some)
        return some

    for _ in range(2):
        require_equal(cached(tmp_path, "some", "key", build), some)
    assert len(made) == 1
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    require_equal(cached(tmp_path, "some", "key", build), some)
    assert len(made) == 2
    assert len(path.read_bytes()) == len(whole)


def test_nothing_is_written_without_a_folder() -> None:
    some = Molecules.packed([], {}, [])
    assert cached(None, "some", "key", lambda: some) is some


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"cannot write into .*file.*data\.init_args\.cache"):
        cached(tmp_path / "file", "some", "key", lambda: Molecules.packed([], {}, []))


def test_keys_tell_parts_from_their_joints() -> None:
    assert content_key("ab", "c") != content_key("a", "bc")
    assert content_key("a") == content_key(b"a")
