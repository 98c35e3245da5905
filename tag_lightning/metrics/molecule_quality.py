"""Quality of generated molecules: stability, validity, connectedness, uniqueness, novelty."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tag_lightning.chemistry import canonical_smiles, is_connected, molecule, stable_atoms
from tag_lightning.metrics.sample_metric import SampleMetric


class MoleculeQuality(SampleMetric):
    """Stability, validity, connectedness, uniqueness and novelty of molecules, see ``molecule_quality``.

    ``reference`` holds the figures of the test split. It leaves out novelty, and so do all figures under ``predict``,
    which reads no real data.
    """

    _known: Container[str] | None = None

    @property
    def columns(self) -> dict[str, int]:
        return {"molecules": torch.Size(self.task.sample_shape).numel()}

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"molecules": x.flatten(1)}

    def prepare(self, device: torch.device) -> None:
        self._known = self.task.data.reference_smiles()
        table = self.task.data.table("test")
        batch = table[list(range(len(table)))]
        self.reference = molecule_quality(*self.task.encoding.decode(batch.x, batch.inputs["mask"]))

    def load_reference_state(self, state: Mapping[str, Any]) -> None:
        super().load_reference_state(state)
        self._known = self.task.data.reference_smiles()

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        numbers, positions = self.task.decoded(rows)
        return molecule_quality(numbers, positions, self._known)

    def terms(self, rows: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        real, stable, _ = _atoms(*self.task.decoded(rows))
        return {"atom_stability": (stable.sum(1).double(), real.sum(1).double())}


def molecule_quality(numbers: Tensor, positions: Tensor, known: Container[str] | None = None) -> dict[str, float]:
    """Shares in [0, 1].

    Stability is that of EDM (Hoogeboom et al. 2022, Sec. 5): ``atom_stability`` over all atoms, ``molecule_stability``
    over all molecules. ``connected`` is the share of molecules whose bonds by distance form one fragment, as MiDi
    (Vignac et al. 2023) reports it. ``validity`` is the share that RDKit sanitises and that are connected, the
    fully connected validity of SemlaFlow (Irwin et al. 2024, arXiv 2406.07266; ``fc-validity`` in its code). EDM's own
    validity asks for the former alone and goes on with the largest fragment, so single atoms without any bond are
    valid there; it is at least as large. ``uniqueness`` is over the valid molecules, ``novelty`` over the distinct
    ones, by the SMILES of the whole molecule. Molecules with a position that is not finite are neither stable nor
    connected nor valid; ``nan`` is their share.

    Args:
        numbers: Atomic numbers ``[B, N]``, 0 is padding.
        positions: Angstrom, ``[B, N, 3]``.
        known: SMILES of the training molecules by ``canonical_smiles`` of the same perception; None leaves novelty
            out.
    """
    numbers, positions = numbers.cpu(), positions.cpu()
    real, stable, finite = _atoms(numbers, positions)
    found = [molecule(z, x) for z, x, good in zip(numbers, positions, finite, strict=True) if bool(good)]
    connected = [mol for mol in found if is_connected(mol)]
    valid = [smiles for smiles in map(canonical_smiles, connected) if smiles is not None]
    distinct = set(valid)
    figures = {
        "atom_stability": float(stable.sum() / real.sum()),
        "molecule_stability": float((stable | ~real).all(1).double().mean()),
        "validity": len(valid) / len(numbers),
        "connected": len(connected) / len(numbers),
        "uniqueness": len(distinct) / max(1, len(valid)),
    }
    if known is not None:
        figures["novelty"] = sum(smiles not in known for smiles in distinct) / max(1, len(distinct))
    return figures | {"nan": float((~finite).double().mean())}


def stable_molecules(numbers: Tensor, positions: Tensor) -> Tensor:
    """True at molecules all of whose atoms are stable, ``[B]``; never at those with a position that is not finite.

    Args:
        numbers: Atomic numbers ``[B, N]``, 0 is padding.
        positions: Angstrom, ``[B, N, 3]``.
    """
    real, stable, _ = _atoms(numbers, positions)
    return (stable | ~real).all(1)


def _atoms(numbers: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real and stable atoms ``[B, N]``, and molecules all of whose positions are finite, ``[B]``."""
    real = numbers > 0
    finite = (positions.isfinite().all(-1) | ~real).all(1)
    return real, stable_atoms(numbers, positions) & finite[:, None], finite
