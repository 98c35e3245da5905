"""The networks that guided sampling needs, loaded and checked against each other and the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from callbacks.image_task import ImageTask
from callbacks.point_task import PointTask
from tag_lightning.diffusion import Denoiser, NoiseSchedule
from tag_lightning.metrics import FeatureExtractor, InceptionFeatures, JudgeFeatures, find_inception_weights
from tag_lightning.networks.probe import require_accepts
from tag_lightning.pretrained import Pretrained, load_pretrained
from tag_lightning.pretrained.store import require_same_schedule

FeatureChoice = Literal["auto", "judge", "inception"]


@dataclass
class SamplingNetworks:
    """What arms are made of.

    Attributes:
        denoiser: The base diffusion model.
        predictor: The time predictor that corrects, if any.
        gauge: The time predictor that measures, if it is another.
        task: What is asked for, with guide and judge.
    """

    denoiser: Denoiser
    predictor: nn.Module | None
    gauge: nn.Module | None
    task: ImageTask | PointTask


def load_denoiser(source: str | None, own: dict[str, Any]) -> Denoiser | None:
    """The denoiser of that name, or the one being trained.

    Args:
        source: Name, folder or checkpoint; None takes the module's own.
        own: What the module brings.
    """
    if source is None:
        return own.get("denoiser")
    network, schedule = load_pretrained(source)
    if schedule is None:
        raise ValueError(f"sampling.denoiser {source} has no noise schedule: it is no denoiser of this package")
    return Denoiser(network, schedule)


def load_predictors(
    sources: dict[str, str | None], own: dict[str, Any], denoiser: Denoiser, sample_shape: tuple[int, ...]
) -> dict[str, nn.Module | None]:
    """The time predictors, each checked to share the denoiser's schedule.

    Args:
        sources: ``predictor`` and ``time_gap_predictor``.
        own: What the module brings.
        denoiser: The denoiser.
        sample_shape: Of one sample.
    """
    networks: dict[str, nn.Module | None] = {}
    for role, source in sources.items():
        if source is not None:
            network, schedule = load_pretrained(source)
            _require_time_predictor(network, schedule, denoiser, f"sampling.{role} {source}")
            require_accepts(network, sample_shape, f"sampling.{role}")
            networks[role] = network
        else:
            networks[role] = None
    if networks["predictor"] is None and "predictor" in own:
        networks["predictor"] = own["predictor"]
        _require_time_predictor(own["predictor"], own["predictor_schedule"], denoiser, "the time predictor")
    return networks


def _require_time_predictor(network: nn.Module, schedule: NoiseSchedule | None, denoiser: Denoiser, what: str) -> None:
    if schedule is None:
        raise ValueError(f"{what} has no noise schedule: it is no time predictor of this package")
    require_same_schedule(schedule.alphas_cumprod, denoiser.schedule.alphas_cumprod, what, "the denoiser")


def load_task(
    data: Any, guide: str | None, judge: str | None, attribute: str, labels: list[int] | None, features: FeatureChoice
) -> ImageTask | PointTask:
    """Guide, judge and feature extractor, checked against the data.

    Args:
        data: The datamodule: ``sample_shape`` and ``num_classes``.
        guide: Name, folder or checkpoint of the classifier that guides.
        judge: Of the one that scores. Points in space have neither.
        attribute: What both tell.
        labels: The classes asked for; None is all.
        features: Of the Frechet distance.

    Raises:
        ValueError: If they do not fit.
    """
    if len(data.sample_shape) == 1:
        return PointTask(data.sample_shape)
    if attribute not in data.num_classes:
        known = ", ".join(sorted(data.num_classes))
        raise ValueError(f"sampling.attribute is {attribute!r}, but the data have {known}")
    if guide is not None and guide == judge:
        raise ValueError(f"sampling.guide and sampling.judge are both {guide}; what guides must not score")
    classes = data.num_classes[attribute]
    networks: dict[str, nn.Module | None] = {"guide": None, "judge": None}
    for role, source in (("guide", guide), ("judge", judge)):
        if source is not None:
            networks[role] = _classifier(load_pretrained(source), classes, attribute, f"sampling.{role} {source}")
            require_accepts(networks[role], data.sample_shape, f"sampling.{role}")  # type: ignore[arg-type]
    wanted = list(range(classes)) if labels is None else labels
    outside = [label for label in wanted if not 0 <= label < classes]
    if outside or not wanted:
        raise ValueError(f"sampling.labels must be classes 0 .. {classes - 1} of {attribute!r}, got {labels}")
    return ImageTask(
        data.sample_shape, wanted, networks["guide"], networks["judge"], _features(features, networks["judge"])
    )


def _classifier(loaded: Pretrained, classes: int, attribute: str, what: str) -> nn.Module:
    known = getattr(loaded.network, "num_classes", None)
    if known != classes:
        raise ValueError(f"{what} tells {known} classes apart, but the data have {classes} of {attribute!r}")
    return loaded.network


def _features(choice: FeatureChoice, judge: nn.Module | None) -> FeatureExtractor | None:
    if choice == "inception" or (choice == "auto" and find_inception_weights() is not None):
        return InceptionFeatures()
    if judge is not None:
        return JudgeFeatures(judge)  # type: ignore[arg-type]
    if choice == "judge":
        raise ValueError("sampling.features is judge, but there is no sampling.judge")
    return None
