"""The enumerated small molecules of C, N, O and F."""

from __future__ import annotations

import inspect
from typing import Any

from tag_lightning.datamodules import enumeration
from tag_lightning.datamodules.geometries import Recipe, Source, geometry_key, prepared_molecules
from tag_lightning.datamodules.molecule_store import Molecules, cached
from tag_lightning.datamodules.molecules import MoleculeDataModule


class SmallMoleculesDataModule(MoleculeDataModule):
    """All small molecules of C, N, O and F under valence and stability rules, built offline by RDKit.

    Up to six heavy atoms give 5,385 molecules of 3 to 20 atoms; see ``datamodules.enumeration`` for the rules.
    Geometries are relaxed by MMFF94. The splits are 80 / 10 / 10 %.

    Args:
        max_heavy_atoms: Largest number of heavy atoms, 1 to 7.
        physics: Compute ``mu`` (debye), ``alpha`` (bohr^3), ``homo``, ``lumo`` and ``gap`` (eV) by GFN2-xTB; needs
            the package tblite.
        **kwargs: Arguments of ``MoleculeDataModule``.

    Raises:
        ValueError: If ``max_heavy_atoms`` is below 1.
    """

    name = "small"

    def __init__(self, max_heavy_atoms: int = 6, physics: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if max_heavy_atoms < 1:
            raise ValueError(f"max_heavy_atoms must be at least 1, got {max_heavy_atoms}")
        self.max_heavy_atoms = max_heavy_atoms
        self.physics = physics

    def load(self) -> Molecules:
        rules = inspect.getsource(enumeration)
        key = geometry_key(f"{rules}\n{self.max_heavy_atoms}", self._recipe())
        return cached(self.cache, self.name, key, self._build)

    def _recipe(self) -> Recipe:
        return Recipe(self.properties, self.physics, self.encoding.elements, self.max_atoms)

    def _build(self) -> Molecules:
        sources = [Source(smiles, smiles, {}) for smiles in enumeration.small_molecules(self.max_heavy_atoms)]
        return prepared_molecules(sources, self._recipe())
