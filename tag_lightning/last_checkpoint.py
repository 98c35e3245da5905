"""A checkpoint of this moment, from which ``--ckpt_path last`` goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def save_last(trainer: Trainer, before_validation: bool = False) -> tuple[Path, int] | None:
    """Write what ``ModelCheckpoint(save_last=True)`` would write now to the file that it would write to.

    Every process must call this. The weights in the module must be those that are trained, not their average.

    Args:
        trainer: Its ``ModelCheckpoint`` callbacks say where checkpoints go.
        before_validation: The validation after this step has not finished: a resumed ``fit`` begins with it.

    Returns:
        Path and global step; None if the run keeps no checkpoints or has none to keep.
    """
    savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
    if not savers or trainer.global_step == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    saver = next((saver for saver in savers if saver.save_last), savers[0])
    if not saver.last_model_path:
        # Part of the checkpoint, and the name under which the callback itself will replace it.
        saver.last_model_path = trainer.strategy.broadcast(str(_unused(saver)))
    with _validation_due(trainer) if before_validation else _as_it_is():
        trainer.save_checkpoint(saver.last_model_path, weights_only=False)
    return Path(saver.last_model_path), trainer.global_step


def _unused(saver: ModelCheckpoint) -> Path:
    assert saver.dirpath is not None  # since its setup
    folder, name, version = Path(saver.dirpath), saver.CHECKPOINT_NAME_LAST, saver.STARTING_VERSION
    path = folder / f"{name}{saver.FILE_EXTENSION}"
    while saver._enable_version_counter and path.exists():
        path = folder / f"{name}{saver.CHECKPOINT_JOIN_CHAR}v{version}{saver.FILE_EXTENSION}"
        version += 1
    return path


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _validation_due(trainer: Trainer) -> Iterator[None]:
    """Let the loops' state in a checkpoint say that a batch of the validation is under way."""
    progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    kept = progress.state_dict()
    total = progress.total
    total.processed = total.completed
    total.ready = total.started = total.completed + 1
    try:
        yield
    finally:
        progress.load_state_dict(kept)
