"""Sampling of molecules of given sizes and properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.chemistry import PROPERTIES, MoleculeEncoding, stable_atoms
from tag_lightning.diffusion import PointCloudSpace, SampleNoise
from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.figures import figure_pixels
from tag_lightning.evaluation.molecule_figures import molecule_grid, property_histograms
from tag_lightning.evaluation.molecule_files import write_molecules
from tag_lightning.evaluation.networks import display_name, load_guide_and_judge
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.guidance import Condition, Range, SquaredError
from tag_lightning.metrics import MoleculeQuality, PhysicsError, PropertyError, SampleMetric
from tag_lightning.networks import EGNNPropertyPredictor, PropertyPredictor

# Apart from the streams of the reverse loop.
_TARGET_STREAM = 2
_DRAWN = 16


class MoleculeTask(SamplingTask):
    """Molecules of given sizes and properties, measured by a network, by chemistry and, on demand, by physics.

    Sample ``i`` takes its number of atoms and its target properties from a training molecule drawn by the seed
    and ``i`` alone: sizes follow the training histogram, targets the distribution given the size. Molecules that lack a
    property of guide or judge are not drawn. A network is a
    shipped one's name (``molecules/guide``), a folder, a checkpoint, or a module with ``properties``, such as
    ``EGNNPropertyPredictor``, or ``MEGNetJudge`` as a judge.

    Args:
        guide: Predictor of clean molecules' properties whose gradient guides; each property is a condition of its
            name.
        judge: Another predictor, which scores and never guides.
        physics: Also compute the properties of samples by GFN2-xTB (the extra ``physics``).
        error_details: Also give medians of all errors, and means over the stable molecules alone.
        metrics: Additional metrics.
        ranges: Properties that are asked to lie in a range, by name, in place of a target for each sample.
    """

    axes = ("N", "3 + F")
    keep_nonfinite = True  # `nan` is their share
    guide: EGNNPropertyPredictor | None
    judge: Any  # a PropertyPredictor, or None

    def __init__(
        self,
        guide: str | nn.Module | None = None,
        judge: str | nn.Module | None = None,
        physics: bool = False,
        metrics: list[SampleMetric] | None = None,
        ranges: dict[str, Range] | None = None,
        error_details: bool = False,
    ) -> None:
        super().__init__(metrics)
        self.error_details = error_details
        self.ranges = ranges or {}
        self.sources = {"guide": guide, "judge": judge}
        self.physics = physics

    def load(self) -> None:
        networks = load_guide_and_judge(**self.sources, example=self.data.example)
        carried = self.data.example.attributes
        for role, network in networks.items():
            name = f"{role} {display_name(self.sources[role])}"
            if network is not None and not isinstance(network, PropertyPredictor):
                raise ValueError(f"{name} is a {type(network).__name__}, not a predictor of properties")
            if role == "guide" and network is not None and not hasattr(network, "spread"):
                raise ValueError(
                    f"{name} has no spread, the unit of a guide's errors: it is a judge and must not guide; give an "
                    "EGNNPropertyPredictor as guide"
                )
            missing = [p for p in getattr(network, "properties", ()) if p not in carried]
            if missing:
                raise ValueError(
                    f"{name} predicts {missing[0]!r}, which the data do not carry; add it to data.init_args.properties"
                )
        self.guide, self.judge = networks["guide"], networks["judge"]  # type: ignore[assignment]
        # An element without bond lengths shows now, not after the training.
        elements = self.encoding.elements
        stable_atoms(torch.tensor([elements]), torch.zeros(1, len(elements), 3))
        names = [name for network in (self.guide, self.judge) if network is not None for name in network.properties]
        self.properties = tuple(dict.fromkeys(names))
        unknown = [name for name in self.ranges if name not in self.properties]
        if unknown:
            known = ", ".join(self.properties) or "none"
            raise ValueError(f"ranges has {unknown[0]!r}, which neither guide nor judge predicts; known are {known}")
        self._train = self.data.table("train")
        self._labelled = self._rows_with(self.properties)

    def default_metrics(self) -> list[SampleMetric]:
        physics = [PhysicsError(details=self.error_details)] if self.physics else []
        return [PropertyError(self.error_details), MoleculeQuality(), *physics]

    @property
    def encoding(self) -> MoleculeEncoding:
        """Molecules as samples, and back."""
        return self.data.encoding

    def space(self, indices: Sequence[int], device: torch.device) -> PointCloudSpace:
        return PointCloudSpace(self.sizes(indices).tolist(), self.sample_shape[1] - 3, indices, device)

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Numbers of atoms of the samples of these global indices, ``[B]``."""
        return self._train.sizes[self._sources_of(indices)]

    def mask(self, indices: Sequence[int]) -> Tensor:
        """True at the atoms of these samples, ``[B, N]``."""
        return torch.arange(self.sample_shape[0]) < self.sizes(indices)[:, None]

    def decoded(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Atomic numbers ``[N, n]`` and positions ``[N, n, 3]`` of all samples, from their rows."""
        x = rows["molecules"].reshape(-1, *self.sample_shape)
        return self.encoding.decode(x, self.mask(range(len(x))))

    def targets(self, indices: Sequence[int], names: Sequence[str] | None = None) -> Tensor:
        """Properties asked of these samples, ``[B, K]`` in their units, in the order of ``names``.

        Args:
            indices: Global indices.
            names: K properties; None takes ``properties``, those of the guide and what the judge adds.
        """
        drawn = self._sources_of(indices)
        columns = [self._train.attributes[name][drawn] for name in (self.properties if names is None else names)]
        return torch.stack(columns, 1) if columns else torch.zeros(len(drawn), 0)

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        if self.guide is None:
            return {}
        targets = self.targets(indices, self.guide.properties).to(device)
        conditions = {}
        for k, (name, spread) in enumerate(zip(self.guide.properties, self.guide.spread, strict=True)):
            output = _Output(self.guide, k)
            if name in self.ranges:
                conditions[name] = self.ranges[name].condition(output, len(targets), spread)
            else:
                conditions[name] = Condition(output, targets[:, k], SquaredError(spread))
        return conditions

    def attributes(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        drawn = self._sources_of(indices)
        asked = {name: values for name, values in self._train.attributes.items() if name not in self.ranges}
        return {name: values[drawn].to(device) for name, values in asked.items()}

    def order(self) -> list[int]:
        """By size, so that a chunk wastes little on padding."""
        return self.sizes(range(self.num_samples)).argsort(stable=True).tolist()

    def pad(self, x: Tensor) -> Tensor:
        full = x.new_zeros(len(x), *self.sample_shape)
        full[:, : x.shape[1]] = x
        return full

    def prepare(self, reference: Iterable[Any], device: torch.device) -> None:
        super().prepare(reference, device)
        self.num_reference = len(self._train)

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """Structural formulas per arm with properties and targets, and histograms of the judged properties."""
        pictures = {}
        for name, result in results.items():
            shown = range(min(_DRAWN, len(result.samples)))
            numbers, positions = self.encoding.decode(result.samples[: len(shown)], self.mask(shown))
            pictures[f"samples/{name}"] = molecule_grid(numbers, positions, self._legends(result, len(shown)))
        properties = () if self.judge is None else self.judge.properties
        columns = [k for k, name in enumerate(properties) if name not in self.ranges]
        if columns:
            units = {properties[k]: _unit(properties[k]) for k in columns}
            judged = {name: result.rows["judged"][:, columns] for name, result in results.items()}
            count = len(next(iter(judged.values())))
            targets = self.targets(range(count), list(units))
            pictures["properties"] = figure_pixels(property_histograms(judged, targets, units))
        return pictures

    def write(self, result: ArmResult, folder: Path, name: str) -> list[Path]:
        """Write SD files with targets and judged properties as fields, and the arrays; see ``write_molecules``."""
        numbers, positions = self.encoding.decode(result.samples, self.mask(range(len(result.samples))))
        return write_molecules(numbers, positions, self._fields(result), folder, name)

    def _fields(self, result: ArmResult) -> list[dict[str, float]]:
        count = len(result.samples)
        asked = [name for name in self.properties if name not in self.ranges]
        targets = self.targets(range(count), asked).T
        columns = {f"target_{name}": values for name, values in zip(asked, targets, strict=True)}
        if self.judge is not None:
            columns |= dict(zip(self.judge.properties, result.rows["judged"][:count].T, strict=True))
        for metric in self.metrics:
            if isinstance(metric, PhysicsError):
                names = [f"xtb_{name}" for name in (*metric.judged, "max_force")]
                columns |= dict(zip(names, result.rows["physics"][:count].T, strict=True))
        return [{name: float(values[i]) for name, values in columns.items()} for i in range(count)]

    def _legends(self, result: ArmResult, count: int) -> list[str]:
        names = self.judge.properties if self.judge is not None else ()
        legends = [""] * count
        for k, (name, targets) in enumerate(zip(names, self.targets(range(count), names).T, strict=True)):
            for i in range(count):
                value = float(result.rows["judged"][i, k])
                asked = self.ranges.get(name) or f"target {float(targets[i]):.2f}"
                legends[i] += f"{name} {value:.2f} ({asked}) {_unit(name)}\n"
        return [legend.strip() for legend in legends]

    def _sources_of(self, indices: Sequence[int]) -> Tensor:
        """The training molecule behind each sample, ``[B]``."""
        return self._labelled[SampleNoise(self.seed, indices, _TARGET_STREAM).integers(len(self._labelled))]

    def _rows_with(self, properties: Sequence[str]) -> Tensor:
        """Rows of the training molecules whose ``properties`` are all known, ``[n]``."""
        known = torch.ones(len(self._train), dtype=torch.bool)
        for name in properties:
            known &= self._train.attributes[name].isfinite()
        if not known.any():
            raise ValueError(
                f"no training molecule has all of {', '.join(properties)}, which guide and judge predict; use data "
                "that have them"
            )
        return known.nonzero()[:, 0]


def _unit(name: str) -> str:
    """Unit of a known property; RDKit's descriptors have none that we know of."""
    return PROPERTIES[name].unit if name in PROPERTIES else ""


class _Output(nn.Module):
    """One column of a network's output."""

    def __init__(self, network: nn.Module, column: int) -> None:
        super().__init__()
        self.network = network
        self.column = column

    def forward(self, x: Tensor, **inputs: Tensor) -> Tensor:
        return self.network(x, **inputs)[:, self.column]
