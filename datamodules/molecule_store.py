"""Molecules in a few tensors: padded in memory, packed on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tag_lightning.files import replacing_in_cache

CACHE_REMEDY = "choose another folder with data.init_args.cache, or null to prepare the data anew in every run"
_LAYOUT = "1"


@dataclass(frozen=True)
class Molecules:
    """M molecules of at most N atoms.

    Attributes:
        numbers: Atomic numbers, 0 for padding, ``[M, N]`` bytes.
        positions: Centred positions in angstrom, zero for padding, ``[M, N, 3]`` float32.
        properties: Values by name, ``[M]`` float64 each; NaN if unknown.
        smiles: SMILES of each molecule; empty if unknown.
        identities: The source's own number of each molecule, ``[M]`` int64; None if it has none.
        skipped: Molecules that were left out, as ``(name, reason)``. A source that could not be embedded keeps a row
            without atoms, so that the splits, which index rows, do not depend on the molecules left out.
    """

    numbers: Tensor
    positions: Tensor
    properties: dict[str, Tensor]
    smiles: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    identities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def sizes(self) -> Tensor:
        """Number of atoms of each molecule, ``[M]``."""
        return (self.numbers > 0).sum(1)

    @classmethod
    def packed(
        cls,
        geometries: Sequence[tuple[np.ndarray, np.ndarray]],
        properties: dict[str, Sequence[float]],
        smiles: Sequence[str],
        skipped: Sequence[tuple[str, str]] = (),
        identities: Sequence[int] | None = None,
    ) -> Molecules:
        """Pad and centre a list of ``(atomic numbers [n], positions [n, 3])``, in angstrom."""
        width = max((len(numbers) for numbers, _ in geometries), default=0)
        numbers = torch.zeros(len(geometries), width, dtype=torch.uint8)
        positions = torch.zeros(len(geometries), width, 3)
        for row, (z, x) in enumerate(geometries):
            numbers[row, : len(z)] = torch.from_numpy(np.asarray(z, np.uint8))
            if len(z):
                positions[row, : len(z)] = torch.from_numpy(np.asarray(x - np.mean(x, 0), np.float32))
        values = {name: torch.tensor(column, dtype=torch.float64) for name, column in properties.items()}
        own = None if identities is None else torch.tensor(identities, dtype=torch.int64)
        return cls(numbers, positions, values, tuple(smiles), tuple(skipped), own)

    def select(self, indices: Tensor) -> Molecules:
        """The molecules at ``indices [n]``, in that order, padded to the largest of them."""
        width = int(self.sizes[indices].max()) if len(indices) else 0
        return Molecules(
            self.numbers[indices, :width],
            self.positions[indices, :width],
            {name: values[indices] for name, values in self.properties.items()},
            tuple(self.smiles[i] for i in indices.tolist()),
            identities=None if self.identities is None else self.identities[indices],
        )

    def restricted(
        self, elements: Sequence[int], max_atoms: int | None, unlabelled: bool = False
    ) -> tuple[Molecules, Tensor]:
        """Drop molecules with other elements, too many atoms, non-finite coordinates or unusable properties.

        Rows without atoms are dropped as well; the reasons for those are in ``skipped`` already.

        Args:
            elements: Atomic numbers of the elements to keep.
            max_atoms: Largest number of atoms to keep; None keeps all.
            unlabelled: Keep molecules whose properties are unknown (NaN).

        Returns:
            The remaining molecules, with the others added to ``skipped``, and their indices ``[n]``.
        """
        known = torch.zeros(256, dtype=torch.bool)
        known[[0, *elements]] = True
        reasons = {
            OTHER_ELEMENT: ~known[self.numbers.long()].all(1),
            too_many_atoms(max_atoms): self.sizes > (max_atoms or self.numbers.shape[1]),
            "coordinates that are not finite": ~self.positions.isfinite().flatten(1).all(1),
        }
        for name, values in self.properties.items():
            reasons[f"no value of {name}"] = values.isinf() if unlabelled else ~values.isfinite()
            reasons[f"a value of {name} beyond single precision"] = values.float().isinf()
        there = self.sizes > 0
        bad = torch.stack(list(reasons.values())) & there
        skipped = [
            (self.smiles[i] or f"molecule {i}", next(why for why, rows in reasons.items() if rows[i]))
            for i in bad.any(0).nonzero()[:, 0].tolist()
        ]
        indices = (there & ~bad.any(0)).nonzero()[:, 0]
        return replace(self.select(indices), skipped=(*self.skipped, *skipped)), indices

    def with_skipped(self, more: Sequence[tuple[str, str]]) -> Molecules:
        """A copy with more entries ``(name, reason)`` in ``skipped``."""
        return replace(self, skipped=(*self.skipped, *more))

    def save(self, path: Path, key: str) -> None:
        """Write the molecules, completely or not at all, under a key that identifies their source.

        Raises:
            OSError: If the folder cannot be written; names it and the remedy.
        """
        real = self.numbers > 0
        text = "\n".join(self.smiles).encode()
        tensors = {
            "sizes": self.sizes,
            "numbers": self.numbers[real],
            "positions": self.positions[real],
            "smiles": torch.frombuffer(bytearray(text or b"\n"), dtype=torch.uint8),
        } | {f"properties.{name}": values for name, values in self.properties.items()}
        if self.identities is not None:
            tensors["identities"] = self.identities
        with replacing_in_cache(path, CACHE_REMEDY) as temporary:
            save_file(tensors, temporary, {"key": key, "layout": _LAYOUT, "skipped": json.dumps(self.skipped)})

    @classmethod
    def load(cls, path: Path, key: str) -> Molecules | None:
        """Read what ``save`` wrote under ``key``; None if the file is missing, truncated or has another key."""
        try:
            with safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                if meta.get("key") != key or meta.get("layout") != _LAYOUT:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        sizes = tensors["sizes"]
        real = torch.arange(int(sizes.max()) if len(sizes) else 0) < sizes[:, None]
        numbers = torch.zeros(real.shape, dtype=torch.uint8).masked_scatter(real, tensors["numbers"])
        positions = torch.zeros(*real.shape, 3).masked_scatter(real[..., None], tensors["positions"])
        properties = {n.removeprefix("properties."): v for n, v in tensors.items() if n.startswith("properties.")}
        smiles = tensors["smiles"].numpy().tobytes().decode().split("\n")[: len(sizes)]
        skipped = tuple(map(tuple, json.loads(meta["skipped"])))
        return cls(numbers, positions, properties, tuple(smiles), skipped, tensors.get("identities"))


OTHER_ELEMENT = "an element outside the configured set"


def too_many_atoms(max_atoms: int | None) -> str:
    """The reason in ``skipped`` of molecules with more than ``max_atoms`` atoms."""
    return f"more than {max_atoms} atoms"


def cached(folder: Path | None, name: str, key: str, build: Callable[[], Molecules]) -> Molecules:
    """Load molecules from the cache, or build and cache them.

    Args:
        folder: Cache folder; None always builds.
        name: Prefix of the file name.
        key: Digest of the source, see ``content_key``.
        build: Builds the molecules.
    """
    if folder is None:
        return build()
    path = folder / f"{name}-{key[:16]}.safetensors"
    found = Molecules.load(path, key)
    if found is None:
        found = build()
        found.save(path, key)
    return found
