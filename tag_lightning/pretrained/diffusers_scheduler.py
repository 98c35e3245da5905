"""Noise schedule, prediction type and clip range of a saved scheduler of diffusers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import diffusers

from tag_lightning.diffusion import NoiseSchedule, PredictionType
from tag_lightning.tensor_file import reason


def scheduler_settings(folder: Path) -> tuple[NoiseSchedule, PredictionType, float | None]:
    """Read ``scheduler_config.json``.

    Returns:
        The noise schedule, the prediction type, and the clip range as ``Denoiser`` takes it: infinity if the
        scheduler does not clip, None if it does not say.

    Raises:
        ValueError: If it is not a scheduler of diffusers with discrete timesteps, or it thresholds dynamically.
    """
    try:
        config = _config(folder)
        cls = getattr(diffusers, str(config["_class_name"]), None)
        if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
            raise ValueError(f"{config['_class_name']} is not a scheduler of diffusers")
        scheduler = cls.from_config(config)
        settings, schedule = scheduler.config, NoiseSchedule(scheduler.alphas_cumprod)
    except Exception as error:  # a constructor may raise anything about settings that it does not expect
        raise ValueError(
            f"the scheduler in {folder} has no noise schedule of discrete timesteps: {reason(error)}; expected one "
            "such as DDPMScheduler"
        ) from error
    if settings.get("thresholding"):
        raise ValueError(
            f"the scheduler in {folder} thresholds clean samples dynamically, which no sampler here does; set "
            "thresholding to false in its scheduler_config.json and clip_sample to true"
        )
    return schedule, settings.get("prediction_type", "epsilon"), _clip_range(settings)


def learns_variance(folder: Path) -> bool:
    """Return whether the network of the scheduler in ``folder`` predicts a variance beside the noise."""
    return _config(folder).get("variance_type") in ("learned", "learned_range")


def _clip_range(settings: Any) -> float | None:
    if "clip_sample" not in settings:
        return None
    return float(settings.get("clip_sample_range", 1.0)) if settings["clip_sample"] else math.inf


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "scheduler_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}; copy it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold an object of settings, got {type(config).__name__}; copy it again")
    return config
