"""The warning that a run has no samples of its final weights."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer


def missing_samples(trainer: Trainer, every_n_epochs: int, validated_at: int | None, sampled_at: int | None) -> str:
    """Why ``fit`` ended without samples of the final weights, and the command that draws them.

    Args:
        trainer: At the end of ``fit``.
        every_n_epochs: Epochs between two samplings.
        validated_at: Global step of the last validation; None if there was none.
        sampled_at: Global step of the last sampling; None if there was none.
    """
    if validated_at == trainer.global_step:
        why = f"sampling.every_n_epochs is {every_n_epochs}, and its validation could not know it was the last"
    else:
        why = "no validation followed the last step (trainer.check_val_every_n_epoch, limit_val_batches, max_steps)"
    last = "nothing was sampled" if sampled_at is None else f"last sampled at step {sampled_at}"
    command = f"validate --config {Path(trainer.default_root_dir) / 'config.yaml'} --ckpt_path last"
    if not trainer.limit_val_batches:  # that configuration repeats the limit
        command += " --trainer.limit_val_batches 1.0"
    return (
        f"fit ended at step {trainer.global_step} without samples of the final weights ({last}): {why}. To make "
        f"them: python -m tag_lightning {command}"
    )
