"""The networks that guided sampling needs, loaded and checked against each other and the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tag_lightning.callbacks.task import SamplingTask
from tag_lightning.datamodules import Batch
from torch import nn

from tag_lightning.diffusion import Denoiser, NoiseSchedule
from tag_lightning.networks.probe import require_accepts
from tag_lightning.pretrained import load_pretrained
from tag_lightning.pretrained.store import require_same_schedule


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
    task: SamplingTask


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
    sources: dict[str, str | None], own: dict[str, Any], denoiser: Denoiser, example: Batch
) -> dict[str, nn.Module | None]:
    """The time predictors, each checked to share the denoiser's schedule.

    Args:
        sources: ``predictor`` and ``time_gap_predictor``.
        own: What the module brings.
        denoiser: The denoiser.
        example: One sample.
    """
    networks: dict[str, nn.Module | None] = {}
    for role, source in sources.items():
        if source is not None:
            network, schedule = load_pretrained(source)
            _require_time_predictor(network, schedule, denoiser, f"sampling.{role} {source}")
            told = {
                name: example.attributes[name]
                for name in getattr(network, "conditions", ())
                if name in example.attributes
            }
            require_accepts(network, example.x.shape[1:], f"sampling.{role}", **example.inputs, **told)
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
