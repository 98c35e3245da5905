"""The embedded molecules: every small one of C, N, O and F."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Literal

from tag_lightning.datamodules import enumeration
from tag_lightning.datamodules.geometries import Source, geometry_key, prepared_molecules
from tag_lightning.datamodules.molecule_store import Molecules, cached
from tag_lightning.datamodules.molecules import QM9_ELEMENTS, MoleculeDataModule


class SmallMoleculesDataModule(MoleculeDataModule):
    """All small molecules of C, N, O and F that valence and a few rules of stability allow, made offline by RDKit.

    With up to six heavy atoms there are 5,385 of 3 to 20 atoms; see ``datamodules.enumeration`` for the rules.
    Geometries are MMFF94's. 80 / 10 / 10 % train, validate and test.

    Args:
        max_heavy_atoms: 1 to 7.
        cache: Folder for the prepared molecules; null prepares them anew in every run.
        properties: Labels that RDKit makes: ``alpha`` (bohr^3), ``mu`` (debye), or a descriptor by its name.
        physics: Compute ``mu`` (debye), ``alpha`` (bohr^3), ``homo``, ``lumo`` and ``gap`` (eV) by GFN2-xTB; needs
            the package tblite.
        elements: Symbols, in the order of the one-hot columns; molecules with others are left out.
        max_atoms: Larger molecules are left out; null keeps all.
        batch_size: Molecules a batch and process.
        num_workers: Processes that prepare batches; 0 is fastest, since the molecules sit in memory.
        seed: Seed of the training order. The splits do not depend on it.
        half: Train on one half of the training molecules only, so that a guide and a judge share none.
    """

    name = "small"

    def __init__(
        self,
        max_heavy_atoms: int = 6,
        cache: str | None = "data/molecules",
        properties: Sequence[str] = ("alpha", "mu"),
        physics: bool = False,
        elements: Sequence[str] = QM9_ELEMENTS,
        max_atoms: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        half: Literal["first", "second"] | None = None,
    ) -> None:
        super().__init__(properties, elements, max_atoms, batch_size, num_workers, seed, half, cache)
        self.max_heavy_atoms = max_heavy_atoms
        self.physics = physics

    def load(self) -> Molecules:
        rules = inspect.getsource(enumeration)
        key = geometry_key(f"{rules}\n{self.max_heavy_atoms}", self.properties, self.physics)
        return cached(self.cache, self.name, key, self._build)

    def _build(self) -> Molecules:
        sources = [Source(smiles, smiles, {}) for smiles in enumeration.small_molecules(self.max_heavy_atoms)]
        return prepared_molecules(sources, self.properties, self.physics)
