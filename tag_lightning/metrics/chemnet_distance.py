"""Frechet distance of generated to real molecules in the features of ChemNet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.chemistry import canonical_smiles, is_connected, molecule
from tag_lightning.feature_moments import FeatureMoments
from tag_lightning.metrics.frechet import FeatureSums, FrechetDistance
from tag_lightning.metrics.sample_metric import SampleMetric

_NUM_FEATURES = 512
_BATCH = 256


class FCD(SampleMetric):
    """Frechet ChemNet distance ``fcd`` to the training molecules (Preuer et al. 2018, arXiv 1803.09518).

    Computed from the SMILES of the valid samples; fragmented molecules, and those that RDKit does not sanitise, do not
    count. Like every Frechet distance it is biased upwards for few samples. ``reference`` is that of the test
    molecules. Network and weights come from the package ``fcd-torch``, whose figures equal those of the authors' code.

    Args:
        num_reference: Largest number of real molecules to compare with, evenly spaced in the order of their SMILES.

    Raises:
        ValueError: If ``num_reference`` is below 2.
    """

    _distance: FrechetDistance
    _network: nn.Module

    def __init__(self, num_reference: int = 10_000) -> None:
        if num_reference < 2:
            raise ValueError(f"metrics: FCD needs at least 2 real molecules, got num_reference {num_reference}")
        self.num_reference = num_reference

    def for_task(self, task: Any) -> Self:
        """Bind to the task.

        Raises:
            ImportError: If fcd-torch is missing; names the remedy.
            ValueError: If the task's samples are not molecules.
        """
        if not hasattr(task, "encoding"):
            raise ValueError(
                f"metrics: FCD compares molecules, which {type(task).__name__} does not draw; remove the metric"
            )
        bound = super().for_task(task)
        bound._network = _chemnet()
        bound._distance = FrechetDistance(_NUM_FEATURES)
        return bound

    @property
    def columns(self) -> dict[str, int]:
        return {"chemnet": _NUM_FEATURES}

    @property
    def networks(self) -> list[nn.Module]:
        return [self._network]

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        numbers, positions = (part.cpu() for part in self.task.encoding.decode(x, self.task.mask(indices).to(x.device)))
        smiles = [_smiles(z, place) for z, place in zip(numbers, positions, strict=True)]
        rows = torch.full((len(smiles), _NUM_FEATURES), torch.nan)
        valid = [place for place, found in enumerate(smiles) if found is not None]
        rows[valid] = self.features([found for found in smiles if found is not None], x.device).cpu()
        return {"chemnet": rows.to(x.device)}

    def prepare(self, device: torch.device) -> None:
        self._distance.reset()
        self._distance.update(self.features(self._chosen(self.task.data.reference_smiles()), device), real=True)
        test = self.features(self._chosen(self.task.data.reference_smiles("test")), device)
        self.reference = self.summary({"chemnet": test})

    def reference_state(self) -> dict[str, Any]:
        """The distance of the test molecules, and mean and covariance of the features of the training molecules."""
        moments = FeatureMoments(self._distance.counts["real"], *self._distance.real_moments)
        return super().reference_state() | moments.packed()

    def load_reference_state(self, state: Mapping[str, Any]) -> None:
        """Restore the moments.

        Raises:
            ValueError: If they are those of another number of molecules.
        """
        super().load_reference_state(state)
        moments = FeatureMoments.unpacked(state)
        if moments.num_samples != min(self.num_reference, len(self.task.data.reference_smiles())):
            raise ValueError(
                f"metrics: FCD is asked for {self.num_reference} real molecules, but the data keep the features of "
                f"{moments.num_samples}; set its num_reference to that"
            )
        self._distance.reset()
        self._distance.update_sums(FeatureSums.of_moments(moments), real=True)

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """``fcd``; nothing without real molecules, as under ``predict``, or with fewer than two valid samples."""
        features = rows["chemnet"]
        valid = features[features.isfinite().all(1)]
        if len(valid) < 2 or not self._distance.counts["real"]:
            return {}
        self._distance.reset(keep_real=True)
        self._distance.update(valid, real=False)
        return {"fcd": float(self._distance.compute())}

    def features(self, smiles: Sequence[str], device: torch.device) -> Tensor:
        """ChemNet's features ``[n, 512]`` of canonical SMILES, of which n may be 0."""
        from fcd_torch.utils import SmilesDataset

        network = self._network.to(device).eval()
        encoded = SmilesDataset(smiles, canonize=False)
        found = [torch.empty(0, _NUM_FEATURES, device=device)]
        for start in range(0, len(encoded), _BATCH):
            letters = [torch.as_tensor(encoded[i]) for i in range(start, min(start + _BATCH, len(encoded)))]
            with torch.no_grad():
                found.append(network(torch.stack(letters).transpose(1, 2).float().to(device)))
        return torch.cat(found)

    def _chosen(self, known: Collection[str]) -> list[str]:
        ordered = sorted(known)
        places = torch.linspace(0, len(ordered) - 1, min(len(ordered), self.num_reference)).round().long()
        return [ordered[place] for place in places.tolist()]


def _chemnet() -> nn.Module:
    try:
        import fcd_torch
    except ImportError as error:
        raise ImportError("metrics: FCD needs the package fcd-torch: pip install fcd-torch") from error
    return fcd_torch.FCD().model.requires_grad_(False)


def _smiles(numbers: Tensor, positions: Tensor) -> str | None:
    """The SMILES of a molecule, None if it is torn, not finite or not valid."""
    if not bool(positions[numbers > 0].isfinite().all()):
        return None
    mol = molecule(numbers, positions)
    return canonical_smiles(mol) if is_connected(mol) else None
