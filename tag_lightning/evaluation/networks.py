"""Networks of a comparison, loaded by name and checked against each other and the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Denoiser, NoiseSchedule
from tag_lightning.diffusion.conditioning import CONTEXT_SPLIT_KEY
from tag_lightning.diffusion.schedules import require_same_schedule
from tag_lightning.networks import EGNNDenoiser
from tag_lightning.networks.trial_run import require_accepts
from tag_lightning.pretrained import load_pretrained


def load_denoiser(source: Denoiser | str | Path, example: Any, data: Any = None) -> Denoiser:
    """Load a denoiser and try it on one sample; a ``Denoiser`` is returned as it is, its channels checked.

    Args:
        source: A shipped network's name, a folder, a checkpoint, or the object.
        example: A batch of one sample.
        data: The datamodule, over which a network of EDM is standardised that is told a property.

    Raises:
        ValueError: If the network has no noise schedule, is a bare one, or cannot take such samples, or the data lack
            the property that it is told.
        FileNotFoundError: If there is nothing of that name.
    """
    if isinstance(source, Denoiser):
        _require_channels(source.network, example.x)
        if _unmeasured_split(source.network) is not None:
            raise ValueError(
                "the denoiser has no mean and spread of the property that it is told; call its network's "
                "measure_context(values) with those of its training data, or give the path of its files"
            )
        return source
    if isinstance(source, nn.Module):
        raise ValueError(
            f"denoiser must be a Denoiser, or the name, folder or checkpoint of one, got a {type(source).__name__}; "
            "give Denoiser(network, schedule, prediction_type) with the noise schedule of its training"
        )
    denoiser = load_pretrained(source).denoiser(source)
    first, condition = torch.zeros(1, dtype=torch.long), {}
    if denoiser.conditioning is not None:
        _measure_context(denoiser, example, data, source)
        condition = denoiser.conditioning.trial(example.attributes)
    require_accepts(denoiser.network, example.x.shape[1:], "denoiser", first, **example.inputs, **condition)
    return denoiser


def _unmeasured_split(network: nn.Module) -> str | None:
    return getattr(network, "config", {}).get(CONTEXT_SPLIT_KEY)


def _measure_context(denoiser: Denoiser, example: Any, data: Any, source: str | Path) -> None:
    """Measure mean and spread of the property that a network of EDM is told, which its files do not hold."""
    split, conditioning, network = _unmeasured_split(denoiser.network), denoiser.conditioning, denoiser.network
    if split is None or conditioning is None or not isinstance(network, EGNNDenoiser):
        return
    name = conditioning.attribute
    if data is None or name not in example.attributes:
        raise ValueError(
            f"denoiser {source} is told {name!r}, which the data do not carry; add it to data.init_args.properties"
        )
    network.measure_context(data.table(split).attributes[name], name)


def _require_channels(network: nn.Module, x: Tensor) -> None:
    config: Any = getattr(network, "config", {})
    channels = config.get("in_channels")
    if channels is not None and x.ndim == 4 and channels != x.shape[1]:
        raise ValueError(
            f"the denoiser ({type(network).__name__}) was built for {channels} channels, but the samples that it is "
            f"given have shape {list(x.shape[1:])}; a denoiser of latents needs data of the same autoencoder"
        )


def load_time_predictor(
    source: nn.Module | str | Path | None, role: str, denoiser: Denoiser, example: Any
) -> nn.Module | None:
    """Load a time predictor and check that it shares the denoiser's schedule; a module is returned as it is.

    Args:
        source: A shipped network's name, a folder, a checkpoint, or the object.
        role: ``predictor`` or ``time_gap_predictor``, for errors.
        denoiser: The denoiser it belongs to.
        example: A batch of one sample, with the attributes that the predictor may be conditioned on.

    Raises:
        ValueError: If it was trained on another schedule, or cannot take such samples.
        FileNotFoundError: If there is nothing of that name.
    """
    if source is None or isinstance(source, nn.Module):
        return source
    network = _of_the_same_schedule(source, role, denoiser)
    _logits(network, role, example)
    return network


def _logits(network: nn.Module, role: str, example: Any) -> Any:
    names = [name for name in getattr(network, "conditions", ()) if name in example.attributes]
    values = {name: example.attributes[name] for name in names}
    return require_accepts(network, example.x.shape[1:], role, **example.inputs, **values)


def require_same_length(network: nn.Module | None, role: str, denoiser: Denoiser, example: Any = None) -> None:
    """Check that a network of noisy samples knows as many timesteps as the denoiser.

    Args:
        network: A time predictor or a regressor of the noise level; None passes.
        role: The argument that it was given as, for errors.
        denoiser: The denoiser it belongs to.
        example: A batch of one sample, to count the logits of a time predictor without ``num_timesteps``; None leaves
            such a one unchecked.

    Raises:
        ValueError: If their numbers differ.
    """
    known = getattr(network, "num_timesteps", None)
    if network is not None and known is None and example is not None:
        logits = _logits(network, role, example)
        known = logits.shape[-1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
    total = denoiser.schedule.num_timesteps
    if known not in (None, total):
        raise ValueError(
            f"{role} ({type(network).__name__}) has T = {known} timesteps but the denoiser has {total}; give one that "
            "was trained on the denoiser's schedule"
        )


def load_noise_level(source: nn.Module | str | Path | None, denoiser: Denoiser, example: Any) -> nn.Module | None:
    """Load a regressor of the noise level and check that it shares the denoiser's schedule; a module is returned as is.

    Args:
        source: A shipped network's name, a folder, a checkpoint, or the object.
        denoiser: The denoiser it belongs to.
        example: A batch of one sample.

    Raises:
        ValueError: If it was trained on another schedule, or cannot take such samples.
        FileNotFoundError: If there is nothing of that name.
    """
    if source is None or isinstance(source, nn.Module):
        return source
    network = _of_the_same_schedule(source, "noise_level", denoiser)
    first = torch.zeros(1, dtype=torch.long)
    require_accepts(network, example.x.shape[1:], "noise_level", first, **example.inputs)
    return network


def _of_the_same_schedule(source: str | Path, role: str, denoiser: Denoiser) -> nn.Module:
    network, schedule, *_ = load_pretrained(source)
    require_schedule(schedule, denoiser, f"{role} {source}")
    return network


def require_schedule(schedule: NoiseSchedule | None, denoiser: Denoiser, name: str) -> None:
    """Check that a time predictor was trained on the schedule of the denoiser.

    Raises:
        ValueError: Says how they differ; calls the predictor ``name``.
    """
    if schedule is None:
        raise ValueError(f"{name} has no noise schedule: it was not trained on noisy samples by this package")
    require_same_schedule(schedule.alphas_cumprod, denoiser.schedule.alphas_cumprod, name, "the denoiser")


def load_guide_and_judge(
    guide: nn.Module | str | Path | None, judge: nn.Module | str | Path | None, example: Any
) -> dict[str, nn.Module | None]:
    """Load the predictor that guides and the one that scores, and try each on one sample.

    Raises:
        ValueError: If both are the same, or one cannot take such samples.
        FileNotFoundError: If there is nothing of that name.
    """
    if guide is not None and guide == judge:
        raise ValueError(
            f"guide and judge are both {display_name(guide)}; the network that guides must not score, give another"
        )
    networks: dict[str, nn.Module | None] = {}
    for role, source in (("guide", guide), ("judge", judge)):
        network = source if source is None or isinstance(source, nn.Module) else load_pretrained(source).network
        if network is not None:
            require_accepts(network, example.x.shape[1:], role, **example.inputs)
        networks[role] = network
    return networks


def display_name(source: nn.Module | str | Path | None) -> str:
    """The name of a network in errors: the class of a module, else its source."""
    return type(source).__name__ if isinstance(source, nn.Module) else str(source)
