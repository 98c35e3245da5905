"""Molecules from formulas: geometries and labels, in parallel, with what failed and why."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import rdkit
from rdkit import Chem
from tag_lightning.datamodules.molecule_store import Molecules, content_key

from tag_lightning.chemistry import embedding, labels, rdkit_labels, xtb_many
from tag_lightning.chemistry.embedding import EmbeddingError, embed, in_parallel, parse_smiles
from tag_lightning.chemistry.xtb import check_request

PHYSICS_PROPERTIES = ("mu", "alpha", "homo", "lumo", "gap")


class Source(NamedTuple):
    """One molecule as its source has it.

    Attributes:
        name: As reports call it.
        formula: SMILES; or a sanitised molecule, whose own geometry is kept where it has one in space.
        labels: Properties that the source knows, by name; NaN where this molecule's is missing.
    """

    name: str
    formula: str | Chem.Mol
    labels: dict[str, float]


class Prepared(NamedTuple):
    """One molecule with its geometry.

    Attributes:
        numbers: Atomic numbers ``[n]``.
        positions: In angstrom, ``[n, 3]``.
        labels: Properties by name, NaN where they could not be computed.
        smiles: Canonical, without hydrogens.
    """

    numbers: np.ndarray
    positions: np.ndarray
    labels: dict[str, float]
    smiles: str


def prepared_molecules(
    sources: Sequence[Source], properties: Sequence[str], physics: bool = False, workers: int | None = None
) -> Molecules:
    """Embed and label; what cannot be embedded is left out and listed in ``skipped``.

    A label that cannot be computed is NaN rather than a reason to leave the molecule out, so that the molecules,
    and with them the splits, are the same for any ``properties``.

    Args:
        sources: The molecules.
        properties: Labels, from the sources where those know them, else computed.
        physics: Compute ``PHYSICS_PROPERTIES`` by GFN2-xTB rather than by RDKit.
        workers: Threads, and processes for xTB; None is one for each core.

    Raises:
        ImportError: xTB is asked for and tblite is not installed.
        ValueError: A label that is neither known to the sources nor can be computed.
    """
    workers = workers or os.cpu_count() or 1
    known = {name for source in sources for name in source.labels}
    unknown = [name for name in properties if name not in known]
    by_physics = [name for name in unknown if physics and name in PHYSICS_PROPERTIES]
    by_rdkit = tuple(name for name in unknown if name not in by_physics)
    _require_labels(by_rdkit, by_physics)
    results = list(in_parallel(partial(_prepared, names=by_rdkit), sources, "Embedding molecules", workers))
    good = [result for result in results if isinstance(result, Prepared)]
    if by_physics:
        computed = xtb_many([(result.numbers, result.positions) for result in good], workers, by_physics)
        for result, values in zip(good, computed, strict=True):
            result.labels.update(values or dict.fromkeys(by_physics, math.nan))
    return Molecules.packed(
        [(result.numbers, result.positions) for result in good],
        {name: [result.labels.get(name, math.nan) for result in good] for name in properties},
        [result.smiles for result in good],
        [(source.name, why) for source, why in zip(sources, results, strict=True) if isinstance(why, str)],
    )


def geometry_key(content: str | bytes, properties: Sequence[str], physics: bool = False) -> str:
    """A digest of what ``prepared_molecules`` depends on; other releases of RDKit make other geometries."""
    rules = inspect.getsource(embedding) + inspect.getsource(labels)
    return content_key(content, rules, rdkit.__version__, "GFN2-xTB" if physics else "", *properties)


def _require_labels(by_rdkit: Sequence[str], by_physics: Sequence[str]) -> None:
    if by_physics:
        check_request(by_physics)
    try:
        rdkit_labels(embed(parse_smiles("C")), by_rdkit)
    except ValueError as error:
        quantum = sorted(set(by_rdkit) & set(PHYSICS_PROPERTIES) - {"alpha", "mu"})
        hint = f" For {quantum[0]} by GFN2-xTB set data.init_args.physics=true." if quantum else ""
        raise ValueError(f"{error} Nor have the data a column or field of that name.{hint}") from error


def _prepared(source: Source, names: Sequence[str]) -> Prepared | str:
    try:
        mol = _with_geometry(parse_smiles(source.formula) if isinstance(source.formula, str) else source.formula)
    except EmbeddingError as error:
        return str(error)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.uint8)
    values = source.labels | _labels(mol, names)
    return Prepared(numbers, mol.GetConformer().GetPositions(), values, Chem.MolToSmiles(Chem.RemoveHs(mol)))


def _with_geometry(mol: Chem.Mol) -> Chem.Mol:
    if not mol.GetNumAtoms():
        raise EmbeddingError("no atoms")
    # Number 0 stands for padding in batches.
    if not all(atom.GetAtomicNum() for atom in mol.GetAtoms()):
        raise EmbeddingError("an atom of no element")
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        return Chem.AddHs(mol, addCoords=True)
    return embed(mol)


def _labels(mol: Chem.Mol, names: Sequence[str]) -> dict[str, float]:
    try:
        return rdkit_labels(mol, names)
    except ValueError:
        # One label that fails must not cost the others.
        return {name: _labels(mol, [name])[name] for name in names} if len(names) > 1 else {names[0]: math.nan}
