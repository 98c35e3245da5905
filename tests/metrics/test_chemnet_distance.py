"""The Frechet ChemNet distance against the published network and figure."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tag_lightning.chemistry import MoleculeEncoding, canonical_smiles, molecule
from tag_lightning.chemistry.embedding import embed, parse_smiles
from tag_lightning.metrics import FCD

fcd_torch = pytest.importorskip("fcd_torch")
ELEMENTS = (1, 6, 7, 8, 9)
KNOWN = ["C", "CC", "CCO", "C=O", "C#N", "CO", "CN", "C=C", "C#C", "NC=O"]
DRAWN = ["CC", "CCC", "CF", "O", "N", "CCO"]
CPU = torch.device("cpu")


def samples(smiles: list[str]) -> tuple[Tensor, Tensor, MoleculeEncoding]:
    """Molecules ``[B, N, 3 + F]`` as a denoiser draws them, and their masks ``[B, N]``."""
    mols = [embed(parse_smiles(each)) for each in smiles]
    width = max(mol.GetNumAtoms() for mol in mols)
    numbers, positions = torch.zeros(len(mols), width, dtype=torch.long), torch.zeros(len(mols), width, 3)
    for row, mol in enumerate(mols):
        numbers[row, : mol.GetNumAtoms()] = torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        positions[row, : mol.GetNumAtoms()] = torch.tensor(mol.GetConformer().GetPositions()).float()
    encoding = MoleculeEncoding(ELEMENTS)
    return encoding.encode(numbers, positions), numbers > 0, encoding


def seen(smiles: list[str]) -> list[str]:
    """The SMILES that are perceived from the geometries."""
    x, mask, encoding = samples(smiles)
    found = [canonical_smiles(molecule(z, place)) for z, place in zip(*encoding.decode(x, mask), strict=True)]
    return [each for each in found if each is not None]


def bound(smiles: list[str], **settings: Any) -> tuple[FCD, Tensor]:
    x, mask, encoding = samples(smiles)
    known = {"train": frozenset(seen(KNOWN)), "test": frozenset(seen(KNOWN[::2]))}
    data = SimpleNamespace(reference_smiles=lambda split="train": known[split])
    task = SimpleNamespace(encoding=encoding, mask=lambda indices: mask[list(indices)], data=data)
    metric = FCD(**settings).for_task(task)
    metric.prepare(CPU)
    return metric, x


def test_it_is_the_published_distance_of_the_valid_molecules() -> None:
    metric, x = bound(DRAWN)
    x[2, :, :3] *= 20  # torn
    rows = metric.rows(x, range(len(x)))
    assert rows["chemnet"].isfinite().all(1).tolist() == [True, True, False, True, True, True]
    valid = [smiles for place, smiles in enumerate(seen(DRAWN)) if place != 2]
    published = fcd_torch.FCD(canonize=False)
    features = torch.from_numpy(published.get_predictions(valid))
    torch.testing.assert_close(rows["chemnet"][[0, 1, 3, 4, 5]], features, rtol=1e-5, atol=1e-6)
    expected = published(sorted(seen(KNOWN)), valid)
    assert metric.summary(rows) == {"fcd": pytest.approx(expected, rel=1e-3)}
    assert metric.reference["fcd"] < expected


def test_fewer_than_two_valid_molecules_have_no_distance() -> None:
    metric, x = bound(["C", "N"])
    rows = metric.rows(x, range(2))
    rows["chemnet"][0] = torch.nan
    assert metric.summary(rows) == {}


def test_real_molecules_are_evenly_spaced_in_the_order_of_their_smiles() -> None:
    metric, _ = bound(["C", "N"], num_reference=3)
    assert metric._distance.counts["real"] == 3


def test_other_samples_and_impossible_numbers_are_refused() -> None:
    other = r"^metrics: FCD compares molecules, which SimpleNamespace does not draw; remove the metric$"
    with pytest.raises(ValueError, match=other):
        FCD().for_task(SimpleNamespace())
    with pytest.raises(ValueError, match=r"^metrics: FCD needs at least 2 real molecules, got num_reference 1$"):
        FCD(1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcd_torch", None)
    with pytest.raises(ImportError, match=r"^metrics: FCD needs the package fcd-torch: pip install fcd-torch$"):
        FCD().for_task(SimpleNamespace(encoding=None))
