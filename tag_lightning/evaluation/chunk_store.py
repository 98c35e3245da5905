"""Finished chunks of samples on disk, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tag_lightning.evaluation.fingerprint import Fingerprints
from tag_lightning.files import replacing


class ChunkStore:
    """A folder with one file per chunk, named by the fingerprint of everything that its samples depend on.

    Processes may share the folder. A file that is damaged, or another one by content, counts as missing.

    Args:
        folder: The folder; made by the first chunk.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a chunk on the CPU, bit for bit; None if there are none."""
        try:
            with safe_open(self._path(key), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                content = (file.metadata() or {}).get("content")
        except (OSError, SafetensorError):
            return None
        return tensors if content == _content(key, tensors) else None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a chunk.

        Raises:
            OSError: If the folder cannot be written; names it and the way out.
        """
        own = {name: values.detach().cpu().contiguous().clone() for name, values in tensors.items()}
        with replacing(self._path(key)) as temporary:
            save_file(own, temporary, {"content": _content(key, own)})

    def remove(self) -> None:
        """Remove all chunks, once the results are written, and the folder above if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _content(key: str, tensors: Mapping[str, Tensor]) -> str:
    # Safetensors notices a file that is cut short, not one whose bytes have changed.
    return Fingerprints().of(key, torch.__version__, {name: tensors[name] for name in sorted(tensors)})
