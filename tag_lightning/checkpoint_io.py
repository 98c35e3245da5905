"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from tag_lightning.pretrained.store import load_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a kill while saving leaves the previous file.

    Lightning's own goes through the system's temporary folder, which is no rename where that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load without executing anything, unless ``weights_only=False`` says that the file is trusted."""
        if weights_only is False:
            return super().load_checkpoint(path, map_location, weights_only)
        return load_checkpoint(Path(path))
