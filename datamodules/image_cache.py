"""Decoded images on disk: the same as decoding anew, or decoded anew."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import PIL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tag_lightning.content_digest import content_key
from tag_lightning.datamodules import tables
from tag_lightning.datamodules.molecule_store import CACHE_REMEDY
from tag_lightning.datamodules.tables import ImageFiles
from tag_lightning.files import replacing_in_cache


def cached_images(files: ImageFiles, folder: Path, cache: Path) -> Tensor:
    """Decode the images below ``folder``, or read what an earlier call decoded.

    The cache has one file per folder, size and number of channels. It is replaced when the name, size or
    modification time of an image changes.

    Args:
        files: The images.
        folder: Common parent of the images.
        cache: Folder of the cache file.

    Returns:
        Bytes ``[N, C, size, size]``.

    Raises:
        ValueError: If a file is not a readable image; names it.
        OSError: If ``cache`` cannot be written; names it and the remedy.
    """
    place = f"{folder.resolve()} {files.size} {files.channels}"
    path = cache / f"{folder.parent.name}-{folder.name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}.safetensors"
    states = [(file, file.stat()) for file in files.paths]
    listed = [f"{file.relative_to(folder)} {state.st_size} {state.st_mtime_ns}" for file, state in states]
    key = content_key(place, inspect.getsource(tables), PIL.__version__, *listed)
    images = _read(path, key)
    if images is None:
        images = files.load()
        with replacing_in_cache(path, CACHE_REMEDY) as temporary:
            save_file({"images": images}, temporary, {"key": key})
    return images


def _read(path: Path, key: str) -> Tensor | None:
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("images") if (file.metadata() or {}).get("key") == key else None
    except (OSError, SafetensorError):
        return None
