"""Settings that are refused before any work, because Lightning fails on them late or without naming them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "num_nodes": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "num_sanity_val_steps": -1,
    "reload_dataloaders_every_n_epochs": 0,
}
# The samplers compute in float32; with weights of another type they fail after the training.
_PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")


def require_possible_trainer(trainer: Mapping[str, Any]) -> None:
    """Check the settings of the trainer.

    Args:
        trainer: Arguments of Lightning's ``Trainer``.

    Raises:
        ValueError: Names the setting, its value and the way out.
    """
    for name, least in _LEAST.items():
        value = trainer.get(name)
        if value is not None and value < least:
            raise ValueError(f"trainer.{name} must be at least {least}, got {value}")
    if trainer.get("val_check_interval") == 0:
        raise ValueError(
            "trainer.val_check_interval must be above 0, got 0; trainer.limit_val_batches 0 turns validation off"
        )
    _require_accelerator(trainer.get("accelerator"))
    on_cpu = runs_on_cpu(trainer)
    _require_devices(trainer, on_cpu)
    _require_precision(trainer, on_cpu)


def runs_on_cpu(trainer: Mapping[str, Any]) -> bool:
    """Return whether the trainer computes on CPUs."""
    accelerator = trainer.get("accelerator")
    if accelerator in ("auto", None):
        return not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return accelerator == "cpu"


def run_folder(value: Any) -> Path:
    """Return ``trainer.default_root_dir`` as a local folder, ``~`` expanded.

    Raises:
        ValueError: If it is empty or on a remote file system.
    """
    if value is None:
        raise ValueError("trainer.default_root_dir must be a folder, got null; the run's files go there")
    if "://" in str(value):
        raise ValueError(
            f"trainer.default_root_dir must be a local folder, got {value}; choose one, or mount the remote storage "
            "and give the mounted folder"
        )
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"trainer.default_root_dir is {value}, a home folder that does not exist") from error


def require_workers(data: Any) -> None:
    """Check the number of worker processes of a datamodule.

    Raises:
        ValueError: If it is negative.
    """
    workers = getattr(data, "num_workers", 0)
    if isinstance(workers, int) and workers < 0:
        raise ValueError(
            f"data.init_args.num_workers must be at least 0, got {workers}; 0 loads data in the main process"
        )


def require_distinct(arms: Mapping[Any, Any] | None, extra_arms: Mapping[Any, Any] | None) -> None:
    """Check that no further arm takes the place of another.

    Raises:
        ValueError: Names the arms.
    """
    both = sorted(set(map(str, arms or {})) & set(map(str, extra_arms or {})))
    if both:
        raise ValueError(
            f"sampling.extra_arms has {', '.join(both)}, which sampling.arms has too (the default arms, if it is not "
            "set); choose another name, or change the arm in sampling.arms"
        )


def named_by_text(arms: Mapping[Any, Any], setting: str) -> dict[str, Any]:
    """Return arms by name; a bare number, such as the YAML key ``3``, becomes text.

    Raises:
        ValueError: If a name is neither text nor a whole number, or two are the same text.
    """
    for name in arms:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise ValueError(
                f"{setting} has an arm named {name!r}, which YAML takes for another type; put it in quotes"
            )
    named = {str(name): arm for name, arm in arms.items()}
    if len(named) < len(arms):
        raise ValueError(f"{setting} has two arms of the same name: {', '.join(map(repr, arms))}; rename one")
    return named


def require_logged(monitors: Mapping[str, str], logged: set[str], arms: set[str]) -> None:
    """Check that monitored metrics exist, once the first validation batches have been logged.

    Args:
        monitors: Metric by the setting that names it.
        logged: Metrics that validation logs.
        arms: Names of the arms, whose metrics exist only after sampling.

    Raises:
        ValueError: Names the setting, the metric and those there are.
    """
    for setting, metric in monitors.items():
        arm, _, _ = metric.rpartition("/")
        known = metric in logged or arm in arms or metric in ("epoch", "step")
        # A part of a metric may need more samples than a trial has.
        if known or metric.startswith(("train", "lr-", *(f"{name}_" for name in logged))):
            continue
        close = difflib.get_close_matches(metric, logged, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        there = ", ".join(sorted(logged))
        raise ValueError(f"{setting} is {metric}, which nothing logs{meant}; validation logs {there}")


def require_seed(seed: Any) -> None:
    """Check ``seed_everything``, a number or true or false.

    Raises:
        ValueError: If random number generators do not take it.
    """
    if not isinstance(seed, bool) and isinstance(seed, int) and not 0 <= seed < 2**32:
        raise ValueError(
            f"seed_everything must lie in 0 .. {2**32 - 1}, got {seed}; true chooses a seed, false sets none"
        )


def _require_accelerator(accelerator: Any) -> None:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"gpu": cuda or mps, "cuda": cuda, "mps": mps}
    if not there.get(str(accelerator).lower(), True):
        raise ValueError(
            f"trainer.accelerator is {accelerator}, but PyTorch finds no such device here; set it to cpu or auto, or "
            "install PyTorch for your GPU"
        )


def _require_devices(trainer: Mapping[str, Any], on_cpu: bool) -> None:
    devices = trainer.get("devices")
    if not on_cpu or devices in (None, "auto"):
        return
    text = str(devices).strip()
    if not text.isdigit() or int(text) < 1:
        raise ValueError(
            f"trainer.devices must be the number of processes, at least 1, on trainer.accelerator cpu, got {devices}"
        )


def _require_precision(trainer: Mapping[str, Any], on_cpu: bool) -> None:
    precision = trainer.get("precision")
    if precision is None:
        return
    if str(precision) not in _PRECISIONS:
        raise ValueError(
            f"trainer.precision must be 32-true, bf16-mixed or 16-mixed, got {precision}; samples are drawn in float32"
        )
    if on_cpu and str(precision) in ("16-mixed", "16"):
        raise ValueError(
            f"trainer.precision {precision} is impractically slow on a CPU; choose 32-true or bf16-mixed, or a GPU"
        )


@contextmanager
def settings_placed(owners: Mapping[str, type]) -> Iterator[None]:
    """Put the place in the configuration before errors that begin with the name of an argument.

    Args:
        owners: Classes by the place of their arguments, such as ``sampling``.
    """
    try:
        yield
    except ValueError as error:
        name = str(error).partition(" ")[0]
        for place, owner in owners.items():
            if owner is not type(None) and name in inspect.signature(owner).parameters:
                raise ValueError(f"{place}.{error}") from error
        raise
