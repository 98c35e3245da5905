"""The comparison of several ways of sampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torchmetrics.utilities import rank_zero_warn

from tag_lightning.diffusion import Denoiser
from tag_lightning.diffusion.arguments import require_count
from tag_lightning.evaluation.arm_result import ArmResult, FailedArm, FailedArmError
from tag_lightning.evaluation.arm_sampler import ArmSampler
from tag_lightning.evaluation.arms import Arm, require_arms
from tag_lightning.evaluation.networks import load_denoiser, load_noise_level, load_time_predictor
from tag_lightning.evaluation.results import Results
from tag_lightning.evaluation.sweep import expanded
from tag_lightning.evaluation.task import SamplingTask


def compare(
    arms: Mapping[str, Arm],
    denoiser: Denoiser | str | Path,
    task: SamplingTask,
    num_samples: int,
    seed: int = 0,
    *,
    predictor: nn.Module | str | Path | None = None,
    time_gap_predictor: nn.Module | str | Path | None = None,
    noise_level: nn.Module | str | Path | None = None,
    reference: Iterable[Any] | None = None,
    **settings: Any,
) -> Results:
    """Draw samples in several ways, with the same noise and targets, and measure them.

    Networks are objects, or names of shipped ones (``digits/denoiser``), folders and checkpoints. On several processes
    each calls this with its ``rank`` and gets the same results; samples do not depend on the number of processes.

    Args:
        arms: Ways of sampling by name; one with a ``sweep`` is drawn once per value.
        denoiser: The base diffusion model.
        task: Kind of samples, bound to data by ``task.for_data(datamodule)``.
        num_samples: Samples per arm, at least 2. Frechet distances of different numbers do not compare.
        seed: Seed of noise and targets.
        predictor: Time predictor that corrects, for arms with TAG.
        time_gap_predictor: A second time predictor that measures the Time-Gap; None measures with ``predictor``.
        noise_level: Regressor of the noise level, for arms with ``Retiming``.
        reference: Batches of the real data to compare with; None takes the datamodule's ``reference_dataloader()``.
        **settings: ``solver``, ``num_steps``, ``chunk_size``, ``num_kept``, ``device``, ``rank``,
            ``world_size``, ``precision``, ``compile``, ``progress`` and ``store``, see ``ArmSampler``.

    Raises:
        ValueError: If a setting is impossible; raised before anything is drawn.
        NonFiniteError: If every arm became NaN or infinite in a task that does not count such samples. If only some
            did, a warning names each at once, and ``Results.failed`` holds them.
    """
    for name, value, least in (("num_samples", num_samples, 2), ("seed", seed, 0)):
        require_count(name, value, least)
    require_arms(arms)
    arms = expanded(arms)
    task = task.for_samples(num_samples, seed)
    denoiser, example = load_denoiser(denoiser, task.example, task.data), task.example
    predictor = load_time_predictor(predictor, "predictor", denoiser, example)
    time_gap_predictor = load_time_predictor(time_gap_predictor, "time_gap_predictor", denoiser, example)
    noise_level = load_noise_level(noise_level, denoiser, example)
    # A frontier resamples all arms beside a sweep.
    settings = {"keep_streamed": any(arm.point is not None for arm in arms.values())} | settings
    sampler = ArmSampler(denoiser, task, predictor, time_gap_predictor, noise_level=noise_level, **settings)
    sampler.require_possible(arms)
    sampler.prepare(reference)
    drawn, failed = _drawn(sampler, arms)
    measured_by = "the predictor that corrects" if time_gap_predictor is None else "second predictor"
    return Results(drawn, task, predictor, measured_by, failed)


def _drawn(sampler: ArmSampler, arms: Mapping[str, Arm]) -> tuple[dict[str, ArmResult], dict[str, FailedArm]]:
    """Draw all arms, those after a failed one included, unless every one fails."""
    drawn: dict[str, ArmResult] = {}
    failed: dict[str, FailedArm] = {}
    for position, (name, arm) in enumerate(arms.items(), 1):
        try:
            drawn[name] = sampler.draw(name, arm, f"{position} of {len(arms)}")
        except FailedArmError as error:
            failed[name] = FailedArm(str(error), arm.point)
            rank_zero_warn(f"{error}. It has no figures; the comparison goes on without it.")
    if not drawn:
        (_, first), *others = failed.items()
        names = ", ".join(name for name, _ in others)
        raise FailedArmError(first.error + (f"; all other arms failed as well: {names}" if names else ""))
    return drawn, failed
