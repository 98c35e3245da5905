"""The task that fits the data: guide, judge and what else judges, loaded and checked."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from tag_lightning.callbacks.image_task import ImageTask
from tag_lightning.callbacks.molecule_task import MoleculeTask
from tag_lightning.callbacks.point_task import PointTask
from tag_lightning.callbacks.task import SamplingTask
from torch import nn

from tag_lightning.metrics import FeatureExtractor, InceptionFeatures, JudgeFeatures, find_inception_weights
from tag_lightning.networks import EGNNPropertyPredictor
from tag_lightning.networks.probe import require_accepts
from tag_lightning.pretrained import load_pretrained

FeatureChoice = Literal["auto", "judge", "inception"]


class TaskSettings(NamedTuple):
    """What of ``GuidedSampling``'s settings concerns the task; documented there."""

    guide: str | None
    judge: str | None
    attribute: str
    labels: list[int] | None
    features: FeatureChoice
    physics: bool
    seed: int
    num_samples: int


def load_task(data: Any, settings: TaskSettings) -> SamplingTask:
    """The task for samples of the data's shape: images ``(C, H, W)``, molecules ``(N, 3 + F)``, points ``(D,)``.

    Args:
        data: The datamodule.
        settings: What the user asks for.

    Raises:
        ValueError: If networks, data and settings do not fit.
    """
    dimensions = len(data.sample_shape)
    if settings.physics and dimensions != 2:
        raise ValueError("sampling.physics judges molecules; leave it out for other data")
    if settings.labels is not None and dimensions != 3:
        raise ValueError("sampling.labels are classes of images; molecules are asked for properties of real ones")
    if dimensions == 1:
        available = len(data.table("train"))
        if settings.num_samples > available:
            raise ValueError(
                f"sampling.num_samples is {settings.num_samples}, but w1 compares samples with as many training "
                f"points, and there are {available}; ask for fewer samples or more data"
            )
        return PointTask(data.sample_shape)
    if settings.guide is not None and settings.guide == settings.judge:
        raise ValueError(f"sampling.guide and sampling.judge are both {settings.guide}; what guides must not score")
    return _molecules(data, settings) if dimensions == 2 else _images(data, settings)


def _images(data: Any, settings: TaskSettings) -> ImageTask:
    attribute = settings.attribute
    if attribute not in data.num_classes:
        known = ", ".join(sorted(data.num_classes))
        raise ValueError(f"sampling.attribute is {attribute!r}, but the data have {known}")
    classes = data.num_classes[attribute]
    networks: dict[str, nn.Module | None] = {}
    for role, source in (("guide", settings.guide), ("judge", settings.judge)):
        networks[role] = _network(source, role, data)
        told = getattr(networks[role], "num_classes", None)
        if source is not None and told != classes:
            raise ValueError(
                f"sampling.{role} {source} tells {told} classes apart, but the data have {classes} of {attribute!r}"
            )
    wanted = list(range(classes)) if settings.labels is None else settings.labels
    outside = [label for label in wanted if not 0 <= label < classes]
    if outside or not wanted:
        raise ValueError(f"sampling.labels must be classes 0 .. {classes - 1} of {attribute!r}, got {settings.labels}")
    features = _features(settings.features, networks["judge"])
    return ImageTask(data.sample_shape, wanted, attribute, networks["guide"], networks["judge"], features)


def _molecules(data: Any, settings: TaskSettings) -> MoleculeTask:
    networks: dict[str, EGNNPropertyPredictor | None] = {}
    for role, source in (("guide", settings.guide), ("judge", settings.judge)):
        network = _network(source, role, data)
        if network is not None and not isinstance(network, EGNNPropertyPredictor):
            raise ValueError(f"sampling.{role} {source} is a {type(network).__name__}, no predictor of properties")
        networks[role] = network
        for name in () if network is None else network.properties:
            if name not in data.example.attributes:
                raise ValueError(
                    f"sampling.{role} {source} predicts {name!r}, which the data do not carry; add it to "
                    "data.init_args.properties"
                )
    return MoleculeTask(data, networks["guide"], networks["judge"], settings.physics, settings.seed)


def _network(source: str | None, role: str, data: Any) -> nn.Module | None:
    if source is None:
        return None
    network = load_pretrained(source).network
    require_accepts(network, data.example.x.shape[1:], f"sampling.{role}", **data.example.inputs)
    return network


def _features(choice: FeatureChoice, judge: nn.Module | None) -> FeatureExtractor | None:
    if choice == "inception" or (choice == "auto" and find_inception_weights() is not None):
        return InceptionFeatures()
    if judge is not None:
        return JudgeFeatures(judge)  # type: ignore[arg-type]
    if choice == "judge":
        raise ValueError("sampling.features is judge, but there is no sampling.judge")
    return None
