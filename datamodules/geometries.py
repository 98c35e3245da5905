"""Molecules from formulas: geometries and labels by RDKit, in parallel, with what failed and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import rdkit
from rdkit import Chem

from datamodules.molecule_store import Molecules, content_key
from tag_lightning.chemistry.embedding import EmbeddingError, embed, in_parallel, parse_smiles
from tag_lightning.chemistry.labels import rdkit_labels


class Prepared(NamedTuple):
    """One molecule with its geometry.

    Attributes:
        numbers: Atomic numbers ``[n]``.
        positions: In angstrom, ``[n, 3]``.
        labels: Properties by name.
        smiles: Canonical, without hydrogens.
    """

    numbers: np.ndarray
    positions: np.ndarray
    labels: dict[str, float]
    smiles: str


def molecules_from_smiles(smiles: Sequence[str], properties: Sequence[str], workers: int | None = None) -> Molecules:
    """Embed and label; what cannot be is left out and listed in ``skipped``.

    Args:
        smiles: One molecule each.
        properties: Labels that RDKit makes, see ``tag_lightning.chemistry.labels``.
        workers: Threads; None is one for each core.
    """
    work = partial(_prepared, properties=tuple(properties))
    results = list(in_parallel(work, smiles, "Embedding molecules", workers or os.cpu_count() or 1))
    good = [result for result in results if isinstance(result, Prepared)]
    return Molecules.packed(
        [(result.numbers, result.positions) for result in good],
        {name: [result.labels[name] for result in good] for name in properties},
        [result.smiles for result in good],
        [(text, why) for text, why in zip(smiles, results, strict=True) if isinstance(why, str)],
    )


def geometry_key(content: str | bytes, properties: Sequence[str]) -> str:
    """A digest of what ``molecules_from_smiles`` depends on; other releases of RDKit make other geometries."""
    return content_key(content, "ETKDGv3 MMFF94", rdkit.__version__, *properties)


def _prepared(smiles: str, properties: Sequence[str]) -> Prepared | str:
    try:
        mol = embed(parse_smiles(smiles))
        labels = rdkit_labels(mol, properties)
    except EmbeddingError as error:
        return str(error)
    except ValueError as error:
        return f"no label: {error}"
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.uint8)
    return Prepared(numbers, mol.GetConformer().GetPositions(), labels, Chem.MolToSmiles(Chem.RemoveHs(mol)))
