"""Many molecules in a few tensors: in memory padded, on disk packed and whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_LAYOUT = "1"


@dataclass(frozen=True)
class Molecules:
    """M molecules of at most N atoms.

    Attributes:
        numbers: Atomic numbers, 0 where there is no atom, ``[M, N]`` bytes.
        positions: In angstrom, centred, zero where there is no atom, ``[M, N, 3]`` float32.
        properties: By name, ``[M]`` float64; NaN where a molecule's is not known.
        smiles: Of each molecule; empty where not known.
        skipped: What was left out and why, ``(name, reason)``.
    """

    numbers: Tensor
    positions: Tensor
    properties: dict[str, Tensor]
    smiles: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def sizes(self) -> Tensor:
        """Atoms of each molecule, ``[M]``."""
        return (self.numbers > 0).sum(1)

    @classmethod
    def packed(
        cls,
        geometries: Sequence[tuple[np.ndarray, np.ndarray]],
        properties: dict[str, Sequence[float]],
        smiles: Sequence[str],
        skipped: Sequence[tuple[str, str]] = (),
    ) -> Molecules:
        """From a list of ``(atomic numbers [n], positions [n, 3])`` in angstrom."""
        width = max((len(numbers) for numbers, _ in geometries), default=0)
        numbers = torch.zeros(len(geometries), width, dtype=torch.uint8)
        positions = torch.zeros(len(geometries), width, 3)
        for row, (z, x) in enumerate(geometries):
            numbers[row, : len(z)] = torch.from_numpy(np.asarray(z, np.uint8))
            positions[row, : len(z)] = torch.from_numpy(np.asarray(x - np.mean(x, 0), np.float32))
        values = {name: torch.tensor(column, dtype=torch.float64) for name, column in properties.items()}
        return cls(numbers, positions, values, tuple(smiles), tuple(skipped))

    def select(self, indices: Tensor) -> Molecules:
        """The molecules of these indices, ``[n]``, in this order, as wide as the largest of them needs."""
        width = int(self.sizes[indices].max()) if len(indices) else 0
        return Molecules(
            self.numbers[indices, :width],
            self.positions[indices, :width],
            {name: values[indices] for name, values in self.properties.items()},
            tuple(self.smiles[i] for i in indices.tolist()),
        )

    def restricted(self, elements: Sequence[int], max_atoms: int | None) -> tuple[Molecules, Tensor]:
        """Those of these atomic numbers alone, of at most so many atoms, finite coordinates and known properties.

        Returns:
            They, with the others added to ``skipped``, and their indices ``[n]``.
        """
        known = torch.zeros(256, dtype=torch.bool)
        known[[0, *elements]] = True
        reasons = {
            "an element outside the configured set": ~known[self.numbers.long()].all(1),
            f"more than {max_atoms} atoms": self.sizes > (max_atoms or self.numbers.shape[1]),
            "coordinates that are not finite": ~self.positions.isfinite().flatten(1).all(1),
        } | {f"no value of {name}": ~values.isfinite() for name, values in self.properties.items()}
        bad = torch.stack(list(reasons.values()))
        skipped = [
            (self.smiles[i] or f"molecule {i}", next(why for why, rows in reasons.items() if rows[i]))
            for i in bad.any(0).nonzero()[:, 0].tolist()
        ]
        indices = (~bad.any(0)).nonzero()[:, 0]
        return replace(self.select(indices), skipped=(*self.skipped, *skipped)), indices

    def with_skipped(self, more: Sequence[tuple[str, str]]) -> Molecules:
        """They, with more that was left out, ``(name, reason)``."""
        return replace(self, skipped=(*self.skipped, *more))

    def save(self, path: Path, key: str) -> None:
        """Write all of it or nothing; ``key`` names what it was made from.

        Raises:
            OSError: If the folder cannot be written; names it and the way out.
        """
        real = self.numbers > 0
        text = "\n".join(self.smiles).encode()
        tensors = {
            "sizes": self.sizes,
            "numbers": self.numbers[real],
            "positions": self.positions[real],
            "smiles": torch.frombuffer(bytearray(text or b"\n"), dtype=torch.uint8),
        } | {f"properties.{name}": values for name, values in self.properties.items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"key": key, "layout": _LAYOUT, "skipped": json.dumps(self.skipped)})

    @classmethod
    def load(cls, path: Path, key: str) -> Molecules | None:
        """What ``save`` wrote under this key; None if there is nothing, something else, or a file cut short."""
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
        return cls(numbers, positions, properties, tuple(smiles), tuple(map(tuple, json.loads(meta["skipped"]))))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what becomes ``path`` at the end of the block, whole, or leaves it as it was.

    Raises:
        OSError: If the folder cannot be written; names it and the way out.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write the prepared molecules to {path.parent} ({error}); choose another folder with "
            "data.init_args.cache, or null to prepare them anew in every run"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def content_key(*parts: str | bytes) -> str:
    """A digest of everything that a set of prepared molecules was made from."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def cached(folder: Path | None, name: str, key: str, build: Callable[[], Molecules]) -> Molecules:
    """What ``build`` makes, from ``folder`` where it lies there already under the same key.

    Args:
        folder: None always builds.
        name: Start of the file's name.
        key: See ``content_key``.
        build: Makes the molecules.
    """
    if folder is None:
        return build()
    path = folder / f"{name}-{key[:16]}.safetensors"
    found = Molecules.load(path, key)
    if found is None:
        found = build()
        found.save(path, key)
    return found
