"""Checkpoints that are complete or unchanged, and that execute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from tag_lightning.files import replacing
from tag_lightning.pretrained.store import load_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint only once the new one is complete, so that a kill while saving leaves the previous one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        # torch would write the name of a path into the archive, and raise a RuntimeError when the disk is full.
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load without executing anything, unless ``weights_only=False`` says that the file is trusted."""
        if weights_only is False:
            return super().load_checkpoint(path, map_location, weights_only)
        return load_checkpoint(Path(path))
