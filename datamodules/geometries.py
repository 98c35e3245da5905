"""Geometries and labels of molecules given by their formulas, computed in parallel."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import rdkit
from rdkit import Chem

from tag_lightning.chemistry import embedding, labels, rdkit_labels, xtb_many
from tag_lightning.chemistry.embedding import EmbeddingError, embed, in_parallel, parse_smiles
from tag_lightning.chemistry.xtb import check_request
from tag_lightning.content_digest import content_key
from tag_lightning.datamodules.molecule_store import OTHER_ELEMENT, Molecules, too_many_atoms

PHYSICS_PROPERTIES = ("mu", "alpha", "homo", "lumo", "gap")


class Source(NamedTuple):
    """One molecule of a source.

    Attributes:
        name: Name in reports.
        formula: SMILES, or a sanitised molecule, whose 3D geometry is kept if it has one.
        labels: Properties that the source has, by name; NaN if missing for this molecule.
    """

    name: str
    formula: str | Chem.Mol
    labels: dict[str, float]


class Prepared(NamedTuple):
    """One molecule with its geometry.

    Attributes:
        numbers: Atomic numbers ``[n]``.
        positions: Positions in angstrom, ``[n, 3]``.
        labels: Properties by name, NaN if they could not be computed.
        smiles: Canonical SMILES without hydrogens.
    """

    numbers: np.ndarray
    positions: np.ndarray
    labels: dict[str, float]
    smiles: str


class Recipe(NamedTuple):
    """The settings that geometries and labels depend on.

    Attributes:
        properties: Labels, taken from the sources or else computed.
        physics: Compute ``PHYSICS_PROPERTIES`` by GFN2-xTB rather than by RDKit.
        elements: Atomic numbers; molecules with others are not embedded. Empty allows all.
        max_atoms: Larger molecules, hydrogens included, are not embedded; None allows any size.
    """

    properties: Sequence[str]
    physics: bool = False
    elements: Sequence[int] = ()
    max_atoms: int | None = None


_NOTHING = Prepared(np.zeros(0, np.uint8), np.zeros((0, 3)), {}, "")


def prepared_molecules(sources: Sequence[Source], recipe: Recipe, workers: int | None = None) -> Molecules:
    """Embed and label molecules.

    Sources without a geometry become rows without atoms and are listed in ``skipped``. A label that cannot be computed
    is NaN rather than a reason to skip the molecule. So the splits are the same for any recipe.

    Args:
        sources: The molecules.
        recipe: Labels and limits.
        workers: Number of threads, and of processes for xTB; None is one per core.

    Raises:
        ImportError: If xTB is needed and tblite is not installed.
        ValueError: If a label is neither in the sources nor can be computed.
    """
    workers = workers or os.cpu_count() or 1
    known = {name for source in sources for name in source.labels}
    unknown = [name for name in recipe.properties if name not in known]
    by_physics = [name for name in unknown if recipe.physics and name in PHYSICS_PROPERTIES]
    by_rdkit = tuple(name for name in unknown if name not in by_physics)
    _require_labels(by_rdkit, by_physics)
    work = partial(_prepared, names=by_rdkit, recipe=recipe)
    results = list(in_parallel(work, sources, "Embedding molecules", workers))
    good = [result for result in results if isinstance(result, Prepared)]
    if by_physics:
        computed = xtb_many([(result.numbers, result.positions) for result in good], workers, by_physics)
        for result, values in zip(good, computed, strict=True):
            result.labels.update(values or dict.fromkeys(by_physics, math.nan))
    rows = [result if isinstance(result, Prepared) else _NOTHING for result in results]
    return Molecules.packed(
        [(row.numbers, row.positions) for row in rows],
        {name: [row.labels.get(name, math.nan) for row in rows] for name in recipe.properties},
        [row.smiles for row in rows],
        [(source.name, why) for source, why in zip(sources, results, strict=True) if isinstance(why, str)],
    )


def geometry_key(content: str | bytes, recipe: Recipe) -> str:
    """A digest of everything that ``prepared_molecules`` depends on, the release of RDKit included."""
    rules = inspect.getsource(embedding) + inspect.getsource(labels) + inspect.getsource(sys.modules[__name__])
    return content_key(content, rules, rdkit.__version__, repr(recipe))


def _require_labels(by_rdkit: Sequence[str], by_physics: Sequence[str]) -> None:
    if by_physics:
        check_request(by_physics)
    try:
        rdkit_labels(embed(parse_smiles("C")), by_rdkit)
    except ValueError as error:
        quantum = sorted(set(by_rdkit) & set(PHYSICS_PROPERTIES) - {"alpha", "mu"})
        hint = f" For {quantum[0]} by GFN2-xTB set data.init_args.physics=true." if quantum else ""
        raise ValueError(f"{error} The data have no column or field of that name either.{hint}") from error


def _prepared(source: Source, names: Sequence[str], recipe: Recipe) -> Prepared | str:
    try:
        mol = parse_smiles(source.formula) if isinstance(source.formula, str) else source.formula
        _require_within(mol, recipe)
        mol = _with_geometry(mol)
    except EmbeddingError as error:
        return str(error)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.uint8)
    values = source.labels | _labels(mol, names)
    return Prepared(numbers, mol.GetConformer().GetPositions(), values, Chem.MolToSmiles(Chem.RemoveHs(mol)))


def _require_within(mol: Chem.Mol, recipe: Recipe) -> None:
    # Before embedding, which takes minutes for large molecules.
    full = Chem.AddHs(mol)
    if not mol.GetNumAtoms():
        raise EmbeddingError("no atoms")
    # Atomic number 0 is padding in batches.
    if not all(atom.GetAtomicNum() for atom in mol.GetAtoms()):
        raise EmbeddingError("an atom without an element")
    if recipe.elements and not {atom.GetAtomicNum() for atom in full.GetAtoms()} <= set(recipe.elements):
        raise EmbeddingError(OTHER_ELEMENT)
    if recipe.max_atoms is not None and full.GetNumAtoms() > recipe.max_atoms:
        raise EmbeddingError(too_many_atoms(recipe.max_atoms))


def _with_geometry(mol: Chem.Mol) -> Chem.Mol:
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        if len(np.unique(mol.GetConformer().GetPositions(), axis=0)) < mol.GetNumAtoms():
            raise EmbeddingError("several atoms at the same position")
        return Chem.AddHs(mol, addCoords=True)
    return embed(mol)


def _labels(mol: Chem.Mol, names: Sequence[str]) -> dict[str, float]:
    try:
        return rdkit_labels(mol, names)
    except ValueError:
        # One label that fails must not cost the others.
        return {name: _labels(mol, [name])[name] for name in names} if len(names) > 1 else {names[0]: math.nan}
