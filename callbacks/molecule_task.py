"""What guided molecules are asked for, and how they are judged: by a network, by chemistry, by physics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tag_lightning.callbacks.figures import figure_pixels
from tag_lightning.callbacks.molecule_figures import molecule_grid, property_histograms
from tag_lightning.callbacks.molecule_files import write_molecules
from tag_lightning.callbacks.task import ArmResult, SamplingTask
from tag_lightning.datamodules.tables import fixed_order
from torch import Tensor, nn

from tag_lightning.chemistry import PROPERTIES, stable_atoms
from tag_lightning.diffusion import PointCloudSpace, SampleNoise
from tag_lightning.guidance import Condition, SquaredError
from tag_lightning.metrics import PhysicsJudge, molecule_quality
from tag_lightning.networks import EGNNPropertyPredictor

# Apart from the streams of the reverse loop.
_TARGET_STREAM = 2
_DRAWN = 16
_CALIBRATION = 150
_BATCH = 256


class MoleculeTask(SamplingTask):
    """Molecules of given sizes and properties.

    Sample ``i`` takes its number of atoms and its target properties from a training molecule drawn by the seed
    and ``i`` alone: sizes follow the training histogram, targets the distribution given the size.

    Args:
        data: A ``MoleculeDataModule``.
        guide: Predictor of clean molecules' properties, each of which is a condition of its name.
        judge: Another one, which scores.
        physics: Whether GFN2-xTB judges as well.
        seed: Of sizes and targets.
    """

    keep_nonfinite = True  # `nan` says how many

    def __init__(
        self,
        data: Any,
        guide: EGNNPropertyPredictor | None,
        judge: EGNNPropertyPredictor | None,
        physics: bool,
        seed: int,
    ) -> None:
        self.data = data
        self.sample_shape = data.sample_shape
        self.guide = guide
        self.judge = judge
        self.guided = guide is not None
        self.seed = seed
        # An element without bond lengths shows now, not after the training.
        stable_atoms(torch.tensor([data.encoding.elements]), torch.zeros(1, len(data.encoding.elements), 3))
        names = [*(guide.properties if guide else ()), *(judge.properties if judge else ())]
        self.properties = tuple(dict.fromkeys(names))
        self.physics = PhysicsJudge(self.properties) if physics else None
        self._train = data.table("train")
        self._known: frozenset[str] | None = None

    @property
    def columns(self) -> dict[str, int]:
        columns = {"molecules": self.sample_shape[0] * self.sample_shape[1]}
        if self.properties:
            columns["targets"] = len(self.properties)
        if self.judge is not None:
            columns["judged"] = len(self.judge.properties)
        return columns if self.physics is None else columns | {"physics": self.physics.width}

    @property
    def networks(self) -> list[nn.Module]:
        return [network for network in (self.guide, self.judge) if network is not None]

    def space(self, indices: Sequence[int], device: torch.device) -> PointCloudSpace:
        return PointCloudSpace(self.sizes(indices).tolist(), self.sample_shape[1] - 3, indices, device)

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Atoms of the samples of these global indices, ``[B]``."""
        return self._train.sizes[self._drawn(indices)]

    def targets(self, indices: Sequence[int]) -> Tensor:
        """Properties asked of them, ``[B, K]`` in their units, in the order of ``properties``."""
        drawn = self._drawn(indices)
        return _stacked([self._train.attributes[name][drawn] for name in self.properties], len(drawn))

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        if self.guide is None:
            return {}
        targets = self.targets(indices).to(device)
        return {
            name: Condition(
                _Output(self.guide, k), targets[:, self.properties.index(name)], SquaredError(self.guide.spread[k])
            )
            for k, name in enumerate(self.guide.properties)
        }

    def told(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        drawn = self._drawn(indices)
        return {name: values[drawn].to(device) for name, values in self._train.attributes.items()}

    def order(self, num_samples: int) -> list[int]:
        """By size, so that a chunk wastes little on padding."""
        return self.sizes(range(num_samples)).argsort(stable=True).tolist()

    def whole(self, x: Tensor) -> Tensor:
        full = x.new_zeros(len(x), *self.sample_shape)
        full[:, : x.shape[1]] = x
        return full

    def measure(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = {"molecules": x.flatten(1)}
        if self.properties:
            rows["targets"] = self.targets(indices)
        mask = self._mask(indices).to(x.device)
        if self.judge is not None:
            # As a discrete molecule, which is what a user gets: elements decided, not as continuous features.
            rows["judged"] = self.judge(self._decided(x, mask), mask)
        if self.physics is not None:
            rows["physics"] = self.physics.measure(*self.data.encoding.decode(x.cpu(), mask.cpu()))
        return rows

    def prepare(self, reference: Iterable[Any], device: torch.device) -> None:
        """Judge held-out real molecules, to which the physics is calibrated as well, and list the known ones."""
        if self._known is not None:
            return
        self._known = self.data.reference_smiles()
        self.num_reference = len(self._train)
        held_out = self.data.table("test")
        figures = {} if self.judge is None else self._judge_error(self.judge, held_out, device)
        batch = held_out[list(range(len(held_out)))]
        figures |= molecule_quality(*self.data.encoding.decode(batch.x, batch.inputs["mask"]))
        if self.physics is not None:
            figures |= self._calibrate(self.physics)
        self.reference = figures

    def summarize(self, rows: dict[str, Tensor]) -> dict[str, float]:
        """``mae_<property>`` by the judge (finite ones only), chemistry, and ``xtb_mae_<property>`` by physics."""
        samples = rows["molecules"].reshape(-1, *self.sample_shape).cpu()
        mask = self._mask(range(len(samples)))
        figures: dict[str, float] = {}
        if self.judge is not None:
            targets = rows["targets"][:, [self.properties.index(name) for name in self.judge.properties]]
            for name, errors in zip(self.judge.properties, (rows["judged"] - targets).abs().T, strict=True):
                figures[f"mae_{name}"] = float(errors[errors.isfinite()].mean())
        figures |= molecule_quality(*self.data.encoding.decode(samples, mask), self._known)
        if self.physics is not None:
            figures |= self.physics.summarize(rows["physics"].cpu(), self.targets(range(len(samples))))
        return figures

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """Drawn molecules of every arm with property and target, and histograms of what was judged."""
        pictures = {}
        for name, result in results.items():
            count = min(_DRAWN, len(result.samples))
            mask = self._mask(range(count))
            numbers, positions = self.data.encoding.decode(result.samples[:count], mask)
            pictures[f"samples/{name}"] = molecule_grid(numbers, positions, self._legends(result, count))
        if self.judge is not None:
            units = {name: _unit(name) for name in self.judge.properties}
            judged = {name: result.rows["judged"] for name, result in results.items()}
            wanted = [self.properties.index(name) for name in self.judge.properties]
            targets = next(iter(results.values())).rows["targets"][:, wanted]
            pictures["properties"] = figure_pixels(property_histograms(judged, targets, units))
        return pictures

    def write(self, result: ArmResult, folder: Path, name: str) -> list[Path]:
        """SD files with what was judged as fields, with bonds from distances and with those RDKit perceives."""
        mask = self._mask(range(len(result.samples)))
        numbers, positions = self.data.encoding.decode(result.samples, mask)
        return write_molecules(numbers, positions, self._fields(result), folder, name)

    def _judge_error(self, judge: EGNNPropertyPredictor, table: Any, device: torch.device) -> dict[str, float]:
        """``mae_<property>`` of the judge on real molecules."""
        total = torch.zeros(len(judge.properties))
        for rows in torch.arange(len(table)).split(_BATCH):
            batch = table[rows.tolist()]
            with torch.no_grad():
                judged = judge(batch.x.to(device), batch.inputs["mask"].to(device)).cpu()
            labels = torch.stack([batch.attributes[name] for name in judge.properties], 1)
            total += (judged - labels).abs().sum(0)
        return {f"mae_{name}": float(total[k] / len(table)) for k, name in enumerate(judge.properties)}

    def _calibrate(self, physics: PhysicsJudge) -> dict[str, float]:
        """Fit to some validation molecules; how far off some test molecules are then."""
        measured = {}
        for split in ("val", "test"):
            table = self.data.table(split)
            # Not the first ones, which are the smallest where a source is in order of size.
            batch = table[fixed_order(len(table))[:_CALIBRATION].tolist()]
            labels = _stacked([batch.attributes[name] for name in self.properties], len(batch.x))
            decoded = self.data.encoding.decode(batch.x, batch.inputs["mask"])
            measured[split] = physics.measure(*decoded), labels
        physics.calibrate(*measured["val"])
        return physics.summarize(*measured["test"])

    def _fields(self, result: ArmResult) -> list[dict[str, float]]:
        count = len(result.samples)
        targets = self.targets(range(count)).T
        columns = {f"target_{name}": column for name, column in zip(self.properties, targets, strict=True)}
        if self.judge is not None:
            columns |= dict(zip(self.judge.properties, result.rows["judged"][:count].T, strict=True))
        if self.physics is not None:
            names = (*self.physics.judged, "max_force")
            columns |= {f"xtb_{k}": column for k, column in zip(names, result.rows["physics"][:count].T, strict=True)}
        return [{name: float(values[i]) for name, values in columns.items()} for i in range(count)]

    def _legends(self, result: ArmResult, count: int) -> list[str]:
        if self.judge is None:
            return [""] * count
        legends = [""] * count
        for k, name in enumerate(self.judge.properties):
            targets = result.rows["targets"][:, self.properties.index(name)]
            unit = _unit(name)
            for i in range(count):
                value = float(result.rows["judged"][i, k])
                legends[i] += f"{name} {value:.2f} (target {float(targets[i]):.2f}) {unit}\n"
        return [legend.strip() for legend in legends]

    def _decided(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.data.encoding.encode(*self.data.encoding.decode(x, mask))

    def _mask(self, indices: Sequence[int]) -> Tensor:
        return torch.arange(self.sample_shape[0]) < self.sizes(indices)[:, None]

    def _drawn(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor(SampleNoise(self.seed, indices, _TARGET_STREAM).integers(len(self._train)))


def _stacked(columns: list[Tensor], count: int) -> Tensor:
    return torch.stack(columns, 1) if columns else torch.zeros(count, 0)


def _unit(name: str) -> str:
    """Of a known property; RDKit's descriptors have none that we know of."""
    return PROPERTIES[name].unit if name in PROPERTIES else ""


class _Output(nn.Module):
    """One column of a network's output."""

    def __init__(self, network: nn.Module, column: int) -> None:
        super().__init__()
        self.network = network
        self.column = column

    def forward(self, x: Tensor, **inputs: Tensor) -> Tensor:
        return self.network(x, **inputs)[:, self.column]
