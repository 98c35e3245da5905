"""The task of a comparison: where samples live, their targets, their metrics and pictures."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Autoencoder, Space
from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.report import Sound
from tag_lightning.files import replacing
from tag_lightning.guidance import Condition
from tag_lightning.metrics import SampleMetric


class SamplingTask(ABC):
    """One kind of samples. A task is described first and bound later: to data, then to a number of samples.

    Args:
        metrics: Additional metrics.

    Attributes:
        axes: Names of the axes of one sample; empty accepts samples of any shape.
        keep_nonfinite: Count samples that became NaN or infinite, instead of ending with an error.
        data: The datamodule of the samples as they are judged; known after ``for_data``, as are the next five.
        autoencoder: Decoder of samples that are drawn as latents; None draws the samples themselves.
        example: A batch of one sample as denoisers and time predictors are given it: a latent if there is a decoder.
        sample_shape: Shape of one sample, padding included.
        guide: Predictor of clean samples whose gradient guides; None without one.
        judge: Another predictor, which scores; None without one.
        num_samples: Samples per arm; known after ``for_samples``, as are the next two.
        seed: Seed of targets and noise.
        metrics: The metrics, bound to this task.
        num_reference: Real training samples that generated ones are compared with; known after ``prepare``.
    """

    axes: tuple[str, ...] = ()
    keep_nonfinite: bool = False
    data: Any = None
    autoencoder: Autoencoder | None = None
    example: Any = None
    sample_shape: tuple[int, ...] = ()
    guide: nn.Module | None = None
    judge: nn.Module | None = None
    num_samples: int = 0
    seed: int = 0
    metrics: Sequence[SampleMetric] = ()
    num_reference: int = 0

    def __init__(self, metrics: list[SampleMetric] | None = None) -> None:
        self._further_metrics = metrics or []
        self._prepared = False

    def for_data(self, data: Any) -> Self:
        """A copy bound to a datamodule, its networks loaded and checked.

        For a ``LatentDataModule``, ``data`` is its module of images, and its ``autoencoder`` decodes the samples.

        Raises:
            ValueError: If the task, its networks and the data do not belong together; begins with the name of the
                argument to change.
        """
        bound = copy.copy(self)
        bound.autoencoder = getattr(data, "autoencoder", None)
        bound.data, bound.example = data, getattr(data, "example", None)
        if bound.autoencoder is not None:
            bound.data = data.images
        bound.sample_shape, bound.num_samples = tuple(bound.data.sample_shape), 0
        if self.axes and len(self.axes) != len(bound.sample_shape):
            raise ValueError(
                f"{type(self).__name__} needs samples [{', '.join(self.axes)}], but the data have samples of shape "
                f"{list(bound.sample_shape)}; choose another task or other data"
            )
        bound.load()
        return bound

    def for_samples(self, num_samples: int, seed: int = 0) -> Self:
        """A copy for the samples 0 .. num_samples - 1 of a seed, with its metrics; the task itself if it is for them.

        Raises:
            ValueError: If a metric cannot measure them, two metrics have a column of the same name, or the task is not
                bound to data yet.
        """
        if self.data is None:
            raise ValueError(f"the {type(self).__name__} has no data yet; pass task.for_data(datamodule)")
        if (self.num_samples, self.seed) == (num_samples, seed):
            return self
        bound = copy.copy(self)
        bound.num_samples, bound.seed, bound.num_reference, bound._prepared = num_samples, seed, 0, False
        metrics = [metric.for_task(bound) for metric in (*self.default_metrics(), *self._further_metrics)]
        bound.metrics = [metric for metric in metrics if metric.columns]
        names = ["seconds", "gaps", *chain.from_iterable(metric.columns for metric in bound.metrics)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"metrics have more than one column named {', '.join(repeated)}; rename one of them")
        return bound

    def load(self) -> None:
        """Load and check what the task needs; ``data`` is known."""
        return

    def default_metrics(self) -> list[SampleMetric]:
        """The metrics of every run of this task."""
        return []

    @property
    def guided(self) -> bool:
        """True if some network can guide, so that there is a condition."""
        return self.guide is not None

    @property
    def features_name(self) -> str | None:
        """The features of Frechet distances; None without one."""
        return next((metric.features_name for metric in self.metrics if hasattr(metric, "features_name")), None)

    @property
    def guides(self) -> list[nn.Module]:
        """The networks that guide."""
        return [] if self.guide is None else [self.guide]

    @property
    def networks(self) -> list[nn.Module]:
        """Networks to move to the sampling device."""
        own = [network for network in (self.guide, self.judge, self.autoencoder) if network is not None]
        return own + [network for metric in self.metrics for network in metric.networks]

    @property
    def columns(self) -> dict[str, int]:
        """Name and width of each quantity in ``rows``."""
        return {name: width for metric in self.metrics for name, width in metric.columns.items()}

    @property
    def streamed(self) -> set[str]:
        """Columns that need not be gathered, see ``SampleMetric.streamed``."""
        return {name for metric in self.metrics for name in metric.streamed}

    @property
    def reference(self) -> dict[str, float]:
        """Figures of held-out real data, measured as samples are: a bound that no sampler can be asked to beat."""
        return {name: value for metric in self.metrics for name, value in metric.reference.items()}

    def require_networks(self, networks: Iterable[nn.Module]) -> None:
        """Check networks against the data beyond the shape of the samples.

        Args:
            networks: All networks of a comparison.

        Raises:
            ValueError: If one does not fit.
        """
        return

    @abstractmethod
    def space(self, indices: Sequence[int], device: torch.device) -> Space:
        """The space of the samples of these global indices."""

    def conditions(self, indices: Sequence[int], device: torch.device) -> dict[str, Condition]:
        """Conditions that guided samples of these indices should satisfy, by name."""
        return {}

    def attributes(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Targets of these samples by name, ``[B]`` each, for time predictors that are conditioned on them."""
        return {}

    def order(self) -> list[int]:
        """Global indices in the order in which chunks take them."""
        return list(range(self.num_samples))

    def pad(self, x: Tensor) -> Tensor:
        """Samples ``[B, ...]`` of a chunk, padded with zeros to the full ``sample_shape``."""
        return x

    def prepare(self, reference: Iterable[Any], device: torch.device) -> None:
        """Let the metrics measure the real data, in one pass over its batches; a second call does nothing."""
        if self._prepared:
            return
        states = getattr(self.data, "reference_states", None)
        if states is None:
            self._measure_real(reference, device)
        else:
            self._load_reference_states(states)
        self._prepared = True

    def _measure_real(self, reference: Iterable[Any], device: torch.device) -> None:
        needing = [metric for metric in self.metrics if metric.needs_real]
        for batch in reference if needing else ():
            for metric in needing:
                metric.add_real(batch, device)
            self.num_reference += len(batch.x)
        for metric in self.metrics:
            metric.prepare(device)

    def _load_reference_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore each metric from the state of its class, for data that keep those and no samples."""
        self.num_reference = len(self.data.table("train"))
        for metric in self.metrics:
            name = type(metric).__name__
            if name in states:
                metric.load_reference_state(states[name])
            elif metric.needs_real or type(metric).prepare is not SampleMetric.prepare:
                raise ValueError(
                    f"{name} compares with real data, which {type(self.data).__name__} does not hold, and its file has "
                    f"no state of {name}; leave the metric out, or write the file with it"
                )

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of every metric for padded samples ``x [B, ...]``: ``[B, width]`` for each of ``columns``."""
        return {name: row for metric in self.metrics for name, row in metric.rows(x, indices).items()}

    def totals(self, rows: Mapping[str, Tensor], indices: Sequence[int]) -> dict[str, Tensor]:
        """The sums of every metric over samples of these indices, with their ``rows``."""
        return {name: total for metric in self.metrics for name, total in metric.totals(rows, indices).items()}

    def described(self) -> dict[str, Any]:
        """Everything beside the arm that samples and their rows depend on, and nothing that measuring changes.

        A task or a metric whose rows depend on more, such as a file, adds it here or to its attributes.
        """
        left_out = ("data", "example", "metrics", "num_reference", "_prepared")
        own = {name: value for name, value in vars(self).items() if name not in left_out}
        loading = ("trainer", "batch_size", "num_workers")
        data = {name: value for name, value in vars(self.data).items() if name[0] != "_" and name not in loading}
        return {
            "task": (type(self), own),
            "data": (type(self.data), data),
            # Metrics that are not bound yet have measured nothing.
            "metrics": (self.default_metrics(), self._further_metrics),
            "columns": [(type(metric), dict(metric.columns), metric.networks) for metric in self.metrics],
        }

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """The figures of all samples' rows, ``[N, width]`` each, and totals."""
        return {name: value for metric in self.metrics for name, value in metric.summary(rows).items()}

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """Bytes ``[3, H, W]`` by name; a slash in a name makes a folder.

        Args:
            results: By arm, at least one.
            predictor: The time predictor that corrects, for pictures of its field.
        """
        return {}

    def sounds(self, results: Mapping[str, ArmResult]) -> dict[str, Sound]:
        """Sounds by name, for tasks that have any; a slash in a name makes a folder.

        Args:
            results: By arm, at least one.
        """
        return {}

    def write(self, result: ArmResult, folder: Path, name: str) -> list[Path]:
        """Write the samples of an arm to files of that name and return their paths."""
        path = folder / f"{name}.npz"
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, samples=result.samples.numpy())
        return [path]
