"""Molecules as pictures and as files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from torch import Tensor

from tag_lightning.chemistry import read_sdf
from tag_lightning.chemistry.embedding import embed, parse_smiles
from tag_lightning.evaluation import molecule_figures
from tag_lightning.evaluation.figures import figure_pixels
from tag_lightning.evaluation.molecule_figures import molecule_grid, property_histograms
from tag_lightning.evaluation.molecule_files import write_molecules


def geometries(*smiles: str, width: int = 12) -> tuple[Tensor, Tensor]:
    numbers, positions = torch.zeros(len(smiles), width, dtype=torch.long), torch.zeros(len(smiles), width, 3)
    for row, text in enumerate(smiles):
        mol = embed(parse_smiles(text))
        numbers[row, : mol.GetNumAtoms()] = torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        positions[row, : mol.GetNumAtoms()] = torch.tensor(mol.GetConformer().GetPositions()).float()
    return numbers, positions


@pytest.fixture
def mixed() -> tuple[Tensor, Tensor]:
    """A good molecule, one with a NaN, one that RDKit cannot read, another good one with NaN in its padding."""
    numbers, positions = geometries("C=O", "C", "C", "CCO")
    positions[1, 2, 1] = torch.nan
    numbers[2, 4] = 0  # a methane without one of its hydrogens
    positions[3, 9:] = torch.nan
    return numbers, positions


def heavy_smiles(path: Path) -> dict[int, str]:
    """By the field ``sample``."""
    return {
        int(float(mol.GetProp("sample"))): Chem.MolToSmiles(Chem.RemoveAllHs(mol, sanitize=False))
        for _, mol, _ in read_sdf(path, sanitize=False)
        if mol is not None
    }


def test_files_leave_out_what_cannot_be_written_and_say_so(
    mixed: tuple[Tensor, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, positions = mixed
    fields = [{"alpha": float(i), "mu": math.nan if i == 3 else 2.5} for i in range(4)]
    paths = write_molecules(numbers, positions, fields, tmp_path / "new" / "folder", "arm")
    assert "4 molecules: 1 with positions that are not finite, 1 that RDKit cannot read" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(p.name for p in paths)
    assert heavy_smiles(paths[1]) == {0: "C=O", 3: "CCO"}
    assert set(heavy_smiles(paths[0])) == {0, 2, 3}
    assert heavy_smiles(paths[0])[0] == "C=O"
    assert heavy_smiles(paths[0])[3] == "CCO"
    records = {int(float(mol.GetProp("sample"))): mol for _, mol, _ in read_sdf(paths[0], sanitize=False) if mol}
    for index, mol in records.items():
        count = int((numbers[index] > 0).sum())
        assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == numbers[index, :count].tolist()
        written = torch.tensor(mol.GetConformer().GetPositions()).float()
        torch.testing.assert_close(written, positions[index, :count], rtol=0, atol=6e-5)
        assert float(mol.GetProp("alpha")) == index
        assert bool(mol.HasProp("mu")) == (index != 3)
    with np.load(paths[2]) as archive:
        assert np.array_equal(archive["numbers"], numbers.numpy())
        assert np.array_equal(archive["positions"], positions.numpy(), equal_nan=True)


def cells(picture: Tensor, count: int) -> list[Tensor]:
    """The cells of a grid of four columns, row by row."""
    height, width = picture.shape[1] // (-(-count // 4)), picture.shape[2] // 4
    return [picture[:, r * height : (r + 1) * height, c * width : (c + 1) * width] for r in range(2) for c in range(4)]


def test_every_molecule_gets_a_cell(mixed: tuple[Tensor, Tensor]) -> None:
    numbers, positions = (torch.cat((part, part[:1])) for part in mixed)
    picture = molecule_grid(numbers, positions, ["a", "b", "c", "d", "a"])
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 400, 880)
    drawn = cells(picture, 5)
    assert all(int((cell < 128).sum()) > 50 for cell in drawn[:5])
    assert all(bool(cell.eq(255).all()) for cell in drawn[5:])
    assert torch.equal(drawn[0], drawn[4])
    assert len({tuple(cell.flatten().tolist()) for cell in drawn[:4]}) == 4


def test_an_unreadable_molecule_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, positions = geometries("CO")
    readable = molecule_grid(numbers, positions, ["text"])
    named = molecule_grid(numbers, positions, ["unreadable\ntext"])
    monkeypatch.setattr(molecule_figures, "perceived", lambda *args: None)
    unreadable = molecule_grid(numbers, positions, ["text"])
    # The bonds are the same ones, laid out anew: a few pixels may fall elsewhere.
    assert int((unreadable != named).any(0).sum()) < 30
    assert int((unreadable != readable).any(0).sum()) > 200


def test_a_text_for_every_molecule_is_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        molecule_grid(*geometries("C", "O"), ["only one"])


def test_histograms_show_shares_of_what_is_finite() -> None:
    targets = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    judged = {
        "good": targets + 0.1,
        "partly": torch.tensor([[1.0, 1e30], [torch.nan, -1e30], [2.0, 20.0], [torch.inf, 30.0]]),
        "nothing": torch.full((4, 2), torch.nan),
    }
    figure = property_histograms(judged, targets, {"alpha": "bohr^3", "count": ""})
    first, second = figure.axes
    assert [first.get_xlabel(), second.get_xlabel()] == ["alpha [bohr^3]", "count"]
    legend = first.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"target", "good", "partly", "nothing"}
    for axes, finite in ((first, 2), (second, 4)):
        assert sum(bar.get_height() for bar in axes.containers[0]) == pytest.approx(1)
        steps = {patch.get_label(): patch for patch in axes.patches if patch.get_label() in judged}
        # The outline passes every bin's height twice.
        shares = {name: patch.get_path().vertices[:, 1].sum() / 2 for name, patch in steps.items()}
        assert shares["good"] == pytest.approx(1)
        assert shares["partly"] == pytest.approx(finite / 4)
        assert shares.get("nothing", 0) == 0
    picture = figure_pixels(figure)
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3


def test_tangles_with_rings_that_nobody_has_looked_for_are_drawn() -> None:
    numbers = torch.tensor([6, 6, 6, 6, 7, 8, 6, 1, 1, 1, 1, 9]).repeat(8, 1)
    positions = 1.3 * torch.randn(8, 12, 3, generator=torch.Generator().manual_seed(0))
    assert molecule_grid(numbers, positions, [""] * 8).shape[0] == 3
