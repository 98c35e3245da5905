"""Attributes asked of generated images: a class, a quantity, or a range of a quantity."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import SampleNoise
from tag_lightning.evaluation.networks import display_name, load_guide_and_judge
from tag_lightning.guidance import Condition, SquaredError
from tag_lightning.guidance.ranges import Range
from tag_lightning.metrics import agrees

# Apart from the streams of the reverse loop.
_TARGET_STREAM = 2
_SPREAD_SAMPLES = 1024


class ImageTarget(ABC):
    """One attribute asked of generated images. A target is described first and bound to data later.

    Args:
        guide: Network of clean images that predicts the attribute and guides; None does not guide by it.
        judge: Another network, which scores; None does not score. An attribute that is computed from the pixels by its
            definition (``Ink``, ``Hue``) may have the same class in both roles.

    Attributes:
        name: The attribute; known after ``for_data``, as are the loaded ``guide`` and ``judge``.
        num_classes: Number of classes asked for in turn, 1 for quantities.
    """

    name: str
    guide: nn.Module | None = None
    judge: nn.Module | None = None
    num_classes: int = 1
    _period: int = 1

    def __init__(self, guide: str | nn.Module | None = None, judge: str | nn.Module | None = None) -> None:
        self.sources = {"guide": guide, "judge": judge}

    def for_data(self, name: str, data: Any, period: int = 1) -> Self:
        """A copy bound to the attribute ``name`` of a datamodule, its networks loaded and checked.

        Args:
            name: The attribute.
            data: The datamodule.
            period: Consecutive samples that are asked for the same class.

        Raises:
            ValueError: If the data lack the attribute, or a network does not predict it.
        """
        bound = copy.copy(self)
        bound.name, bound._period = name, period
        bound.load(data, load_guide_and_judge(**self.sources, example=data.example))
        return bound

    @abstractmethod
    def load(self, data: Any, networks: dict[str, nn.Module | None]) -> None:
        """Check data and networks, and keep the networks."""

    @abstractmethod
    def values(self, indices: Sequence[int], seed: int) -> Tensor | None:
        """The value asked of each of these samples, ``[B]``; None if it is a range."""

    @abstractmethod
    def condition(self, indices: Sequence[int], seed: int, device: torch.device) -> Condition:
        """The condition that guided samples of these indices should satisfy; there is a guide."""

    @property
    def decides(self) -> bool:
        """True if the judge can tell whether a sample satisfies the target."""
        return self.judge is not None

    @property
    def measures(self) -> bool:
        """True if the judge measures a quantity, so that ``errors`` has an answer."""
        return False

    @abstractmethod
    def satisfied(self, x: Tensor, indices: Sequence[int]) -> Tensor:
        """The judge's decision on samples ``x [B, C, H, W]``, bools ``[B]``; for targets that ``decides``."""


class ClassTarget(ImageTarget):
    """A class, one after the other.

    Args:
        guide: See ``ImageTarget``; a classifier with logits ``[B, K]``.
        judge: See ``ImageTarget``.
        labels: The classes asked for, in turn; None asks for all of them.
    """

    def __init__(
        self,
        guide: str | nn.Module | None = None,
        judge: str | nn.Module | None = None,
        labels: list[int] | None = None,
    ) -> None:
        super().__init__(guide, judge)
        self.labels = labels

    def load(self, data: Any, networks: dict[str, nn.Module | None]) -> None:
        counts = data.num_classes
        if self.name not in counts:
            listed = ", ".join(sorted(counts)) or "(none)"
            raise ValueError(f"attribute is {self.name!r}, but the data have {listed}")
        classes = counts[self.name]
        for role, network in networks.items():
            known = getattr(network, "num_classes", None)
            if network is not None and known != classes:
                raise ValueError(
                    f"{role} {display_name(self.sources[role])} tells {known} classes apart, but the data have "
                    f"{classes} of {self.name!r}"
                )
        self.guide, self.judge = networks["guide"], networks["judge"]
        labels = list(range(classes)) if self.labels is None else self.labels
        if not labels or not all(0 <= label < classes for label in labels):
            raise ValueError(f"labels must be classes 0 .. {classes - 1} of {self.name!r}, got {self.labels}")
        self._labels = torch.tensor(labels)
        self.num_classes = len(labels)

    def values(self, indices: Sequence[int], seed: int) -> Tensor:
        return self._labels[torch.tensor(indices) // self._period % len(self._labels)]

    def asks_for(self, labels: Tensor) -> Tensor:
        """True where real images of these classes, ``[B]``, are of a class asked for."""
        return torch.isin(labels, self._labels.to(labels))

    def condition(self, indices: Sequence[int], seed: int, device: torch.device) -> Condition:
        assert self.guide is not None
        return Condition(self.guide, self.values(indices, seed).to(device))

    def satisfied(self, x: Tensor, indices: Sequence[int]) -> Tensor:
        assert self.judge is not None
        return agrees(self.judge(x), self.values(indices, 0))


class QuantityTarget(ImageTarget):
    """A quantity: the value of a training image drawn for each sample, or any value in a range.

    Errors count in units of the quantity's mean absolute deviation over the training data.

    Args:
        guide: See ``ImageTarget``; a network of quantities ``[B]``, such as ``Ink``.
        judge: See ``ImageTarget``.
        at_least: Lower bound of a range; None is unbounded. Without any bound each sample has a target value.
        at_most: Upper bound of a range; None is unbounded.
    """

    def __init__(
        self,
        guide: str | nn.Module | None = None,
        judge: str | nn.Module | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        super().__init__(guide, judge)
        self.range = None if at_least is None and at_most is None else Range(at_least, at_most)

    def load(self, data: Any, networks: dict[str, nn.Module | None]) -> None:
        carried = data.example.attributes
        quantities = [name for name, values in carried.items() if values.is_floating_point()]
        if self.name not in quantities:
            listed = ", ".join(quantities) or "(none)"
            raise ValueError(f"attribute {self.name!r} is not a quantity of the data, which have {listed}")
        for role, network in networks.items():
            with torch.no_grad():
                shape = [1] if network is None else list(network(data.example.x).shape)
            if shape != [1]:
                raise ValueError(
                    f"{role} {display_name(self.sources[role])} returns {shape} for one image, expected one quantity "
                    f"[1] of {self.name!r}"
                )
        self.guide, self.judge = networks["guide"], networks["judge"]
        self._train = data.table("train")
        count = len(self._train)
        values = self._real(torch.linspace(0, count - 1, min(count, _SPREAD_SAMPLES)).round().long().tolist())
        self._spread = (values - values.mean()).abs().mean().clamp(min=1e-6)

    def values(self, indices: Sequence[int], seed: int) -> Tensor | None:
        if self.range is not None:
            return None
        return self._real(SampleNoise(seed, indices, _TARGET_STREAM).integers(len(self._train)).tolist())

    def condition(self, indices: Sequence[int], seed: int, device: torch.device) -> Condition:
        assert self.guide is not None
        values = self.values(indices, seed)
        if values is not None:
            return Condition(self.guide, values.to(device), SquaredError(self._spread))
        assert self.range is not None
        return self.range.condition(self.guide, len(indices), self._spread)

    @property
    def decides(self) -> bool:
        return self.judge is not None and self.range is not None

    @property
    def measures(self) -> bool:
        return self.judge is not None

    def satisfied(self, x: Tensor, indices: Sequence[int]) -> Tensor:
        assert self.judge is not None
        assert self.range is not None
        return self.range.distance(self.judge(x)) == 0

    def errors(self, values: Tensor, seed: int) -> Tensor:
        """Absolute errors ``[N]`` of the quantities ``values [N]`` of samples 0 .. N - 1; distances from a range."""
        if self.range is not None:
            return self.range.distance(values)
        asked = self.values(range(len(values)), seed)
        assert asked is not None
        return (values - asked.to(values)).abs()

    def _real(self, indices: list[int]) -> Tensor:
        return self._train[indices].attributes[self.name]
