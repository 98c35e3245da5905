"""Saving and loading of a network with its noise schedule.

A saved network is a folder in the format of diffusers (``config.json`` and safetensors weights), with
``schedule.safetensors`` if the network was trained on noisy samples. A Lightning checkpoint has the same
description under the key ``tag_lightning``. Neither can execute code.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import tag_lightning.networks as networks
from tag_lightning.diffusion import (
    CONDITION_KEY,
    NULL_TIMESTEP_KEY,
    PREDICTION_KEY,
    NoiseSchedule,
    trained_prediction_type,
)
from tag_lightning.diffusion.schedules import require_same_schedule
from tag_lightning.files import replacing
from tag_lightning.networks.frozen_base import OnFrozenBase
from tag_lightning.pretrained.diffusers_scheduler import learns_variance, scheduler_settings
from tag_lightning.pretrained.edm import edm_files, load_edm
from tag_lightning.pretrained.openai import load_openai, without_variance
from tag_lightning.pretrained.pretrained_network import Pretrained, frozen, require_finite_network
from tag_lightning.pretrained.public import HUB_PREFIX, hub_folder, remedy
from tag_lightning.tensor_file import load_values, load_weights, reason

CHECKPOINT_KEY = "tag_lightning"
_SHIPPED = Path(__file__).parent
_KEPT = (CONDITION_KEY, NULL_TIMESTEP_KEY, PREDICTION_KEY)
_DIFFUSERS = logging.getLogger("diffusers.models.modeling_utils")


def describe(network: nn.Module, schedule: NoiseSchedule | None) -> dict[str, Any]:
    """Architecture and schedule in plain types, sufficient to rebuild the network.

    Raises:
        ValueError: If the network has no ``config`` like diffusers' models.
    """
    config = getattr(network, "config", None)
    if config is None:
        raise ValueError(
            f"{type(network).__name__} has no configuration to save; derive it from diffusers' ModelMixin and "
            "ConfigMixin and decorate its constructor with register_to_config"
        )
    public = {k: v for k, v in dict(config).items() if not k.startswith("_") or k in _KEPT}
    values = json.loads(json.dumps(public))
    powers = None if schedule is None else schedule.alphas_cumprod.cpu().clone()
    return {"class": type(network).__name__, "config": values, "alphas_cumprod": powers}


def constructor_defaults(network: nn.Module) -> dict[str, Any]:
    """Defaults of the arguments of the network's class, in plain types; those that are not plain are left out."""
    parameters = inspect.signature(type(network)).parameters.values()
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    known = {p.name: p.default for p in parameters if isinstance(p.default, plain)}
    return json.loads(json.dumps(known))


def require_same(
    saved: dict[str, Any], current: dict[str, Any], source: str, defaults: Mapping[str, Any] | None = None
) -> None:
    """Check that a checkpoint matches the configured network and schedule.

    Args:
        saved: Description in the checkpoint.
        current: Description of the configured network.
        source: Name of the checkpoint in errors.
        defaults: Values of arguments that the network's class did not have when the checkpoint was written.

    Raises:
        ValueError: If they differ; names the differences.
    """
    if saved["class"] != current["class"]:
        raise ValueError(
            f"{source} holds a {saved['class']} but a {current['class']} is configured; use the configuration "
            "of the checkpoint"
        )
    there, here = dict(defaults or {}) | saved["config"], dict(defaults or {}) | current["config"]
    differing = [k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k)]
    if differing:
        rows = ", ".join(f"{k} {there.get(k)} there and {here.get(k)} here" for k in differing)
        raise ValueError(f"{source} was made for another architecture: {rows}; use the configuration of the checkpoint")
    require_same_schedule(saved["alphas_cumprod"], current["alphas_cumprod"], source, "the configured schedule")


def save_pretrained(
    folder: str | Path, network: nn.Module, schedule: NoiseSchedule | None, card: str | None = None
) -> None:
    """Write a folder for ``load_pretrained``; it is complete or, after an error, as it was before.

    Args:
        folder: Target, replaced if it exists; missing parents are created.
        network: A network of diffusers or of ``tag_lightning.networks``.
        schedule: Noise schedule of its training; None for networks of clean samples.
        card: Content of ``README.md``, see ``model_card``; None writes no card.

    Raises:
        OSError: If the folder cannot be written.
    """
    with replacing(Path(folder)) as temporary:
        network.save_pretrained(temporary, safe_serialization=True)  # type: ignore[operator]
        _forget_origin(temporary / "config.json")
        if schedule is not None:
            save_file({"alphas_cumprod": schedule.alphas_cumprod.cpu()}, temporary / "schedule.safetensors")
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors leaves its files readable by the owner only


def _forget_origin(file: Path) -> None:
    """Remove the path that diffusers notes in a loaded network's configuration: it means nothing elsewhere."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_pretrained(source: str | Path) -> Pretrained:
    """Load a shipped network by its name, or one from a folder or a Lightning checkpoint.

    Args:
        source: ``digits/denoiser`` and the like, a ``.ckpt`` file of this package, or a folder written by
            ``save_pretrained`` or by diffusers: a model with ``scheduler_config.json`` beside it, or a pipeline with
            the folders ``unet`` and ``scheduler``. The scheduler gives the noise schedule, the prediction type and
            the clip range. Also a ``.pt`` UNet of OpenAI's improved- or guided-diffusion, and EDM's output folder or
            its ``generative_model*.npy``, and ``hf://owner/name``, a folder of the Hugging Face Hub; see
            ``docs/your_model.md``.

    Raises:
        FileNotFoundError: If the network does not exist.
        ValueError: If the package cannot build the network.
    """
    if not isinstance(source, str | Path):
        raise ValueError(
            f"a network to load must be a name, folder or checkpoint, got {source!r}; give one such as digits/denoiser"
        )
    if str(source).startswith(HUB_PREFIX):
        return load_pretrained(hub_folder(str(source)))
    path = Path(source)
    if (edm := edm_files(path)) is not None:
        return load_edm(*edm)
    if path.is_file():
        return load_openai(path) if path.suffix == ".pt" else _from_checkpoint(path)
    folder = network_folder(source)
    if folder is not None:
        return _from_folder(folder)
    if path.name == "pretrained":  # where a run leaves its network
        raise FileNotFoundError(
            f"no network under {source}: the run {path.parent} has not ended yet; fit it first (with stages, add "
            f"{path.parent.name} to --only), or name another network"
        )
    raise FileNotFoundError(
        f"no network under {source}: expected a .ckpt file, a folder with config.json, or {_shipped_near(path)}"
        f"{remedy(source)}"
    )


def _shipped_near(path: Path) -> str:
    """The shipped networks of the kind that ``path`` begins with, or all kinds if there is none."""
    shipped = sorted(p.parent.relative_to(_SHIPPED) for p in _SHIPPED.rglob("config.json"))
    near = [str(name) for name in shipped if name.parts[:1] == path.parts[:1]]
    if near:
        return f"one of the shipped {', '.join(near)}"
    return f"a shipped network such as digits/denoiser, of {', '.join(sorted({name.parts[0] for name in shipped}))}"


def network_folder(source: str | Path) -> Path | None:
    """The folder that ``source`` names, by path or as a shipped network; None if there is no network."""
    path = Path(source)
    folders = (path, path / "unet", _SHIPPED / path)
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint without executing anything in it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is truncated, not a checkpoint, or would execute code.
    """
    if not path.is_file():
        mistake = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"checkpoint {path} {mistake}; give a .ckpt file of a run, as in checkpoints/last.ckpt")
    checkpoint = load_values(path, "checkpoint")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(
            f"{path} is not a Lightning checkpoint: it has no state_dict; give a .ckpt file of a run, as in "
            "checkpoints/last.ckpt"
        )
    return checkpoint


def _from_checkpoint(path: Path) -> Pretrained:
    checkpoint = load_checkpoint(path)
    if CHECKPOINT_KEY not in checkpoint:
        raise ValueError(
            f"{path} was not made by tag_lightning: it does not describe its network; give a checkpoint of a run of "
            "its own, or a folder"
        )
    saved = checkpoint[CHECKPOINT_KEY]
    prefix = "network."
    try:
        weights = {k[len(prefix) :]: v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        cls, config, powers = _network_class(saved["class"], str(path)), saved["config"], saved["alphas_cumprod"]
        network = cls.from_config(config)
        network.load_state_dict(weights)
        schedule = None if powers is None else NoiseSchedule(powers)
    except Exception as error:  # a constructor may raise anything about settings that it does not expect
        raise ValueError(
            f"cannot load the network in {path}: {reason(error)}; its parts must belong together"
        ) from error
    _complete(network, path)
    require_finite_network(network, path)
    return frozen(network, schedule, trained_prediction_type(network))


def _from_folder(folder: Path) -> Pretrained:
    config = _network_config(folder)
    name = str(config["_class_name"])
    cls = _network_class(name, str(folder))
    pickled = folder / "diffusion_pytorch_model.bin"
    safe = not pickled.is_file() or any(folder.glob("diffusion_pytorch_model*.safetensors*"))
    if not safe:
        load_weights(pickled, "model of diffusers")  # refuses whatever is not tensors, in one line
    try:
        with _silence(_DIFFUSERS):  # it warns of missing weights, which are judged below
            network, found = cls.from_pretrained(
                folder, use_safetensors=safe, low_cpu_mem_usage=False, output_loading_info=True
            )
    except Exception as error:  # a constructor may raise anything about settings that it does not expect
        raise ValueError(
            f"cannot load the network in {folder}: {reason(error)}; its config.json and weights must belong together"
        ) from error
    # Buffers that a network fills itself where older files lack them.
    found["missing_keys"] = set(found["missing_keys"]) - set(getattr(network, "optional_keys", ()))
    # diffusers only logs these and leaves missing weights uninitialised.
    for kind in ("missing_keys", "unexpected_keys"):
        if found[kind]:
            what = f"{kind.replace('_', ' ')} {', '.join(sorted(found[kind])[:3])}"
            raise ValueError(
                f"the weights in {folder} do not match the {name} of its config.json: {what}; copy or save both again"
            )
    _complete(network, folder)
    require_finite_network(network, folder)
    schedule = _schedule_from(folder / "schedule.safetensors")
    for scheduler in (folder, folder.parent / "scheduler"):
        if schedule is None and (scheduler / "scheduler_config.json").is_file():
            if learns_variance(scheduler):
                network = without_variance(network)
            return frozen(network, *scheduler_settings(scheduler))
    return frozen(network, schedule, trained_prediction_type(network))


def _complete(network: nn.Module, source: Path) -> None:
    """Load the frozen network under one that is saved without it.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is another one than in training.
    """
    if not isinstance(network, OnFrozenBase):
        return
    try:
        network.attach(load_pretrained(network.base_source).network)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"cannot load the {type(network).__name__} in {source}: {error}") from error


def _network_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the network in {folder}: config.json is not JSON: {error}") from error
    if not isinstance(config, dict) or "_class_name" not in config:
        raise ValueError(f"cannot load the network in {folder}: its config.json has no _class_name; save it again")
    # Both would import code that the file names.
    for key in ("auto_map", "quantization_config"):
        if key in config:
            raise ValueError(f"{file} has {key}, which networks here do not take; remove it or save the network anew")
    return config


@contextmanager
def _silence(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _schedule_from(file: Path) -> NoiseSchedule | None:
    if not file.is_file():
        return None
    try:
        return NoiseSchedule(load_file(file)["alphas_cumprod"])
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{file} is not a readable noise schedule (truncated?): {error}; save it again") from error


def _network_class(name: str, source: str) -> Any:
    """The class of a network by its name in a file, never one that does more than hold weights, as a pipeline does."""
    own = getattr(networks, name, None) if name in networks.__all__ else None
    cls = own or getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, ModelMixin)):
        raise ValueError(
            f"{source} holds a {name}, which neither tag_lightning.networks nor diffusers knows as a network; refused"
        )
    return cls
