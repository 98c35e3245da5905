"""Samples of a denoiser as data: drawn once, in chunks that are kept as they are finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tag_lightning.content_digest import content_key, weights_bytes
from tag_lightning.diffusion import Denoiser
from tag_lightning.files import remove_leftovers, replacing
from tag_lightning.pretrained import load_pretrained
from tag_lightning.progress import tracked

# Parts of all samples that the splits begin and end at.
BOUNDS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
_REMEDY = "choose another folder with data.init_args.cache"


def drawn_chunks(
    folder: Path, count: int, chunk_size: int, draw: Callable[[range], dict[str, Tensor]], title: str
) -> list[dict[str, Tensor]]:
    """The chunks of ``count`` samples: those found in ``folder``, and the others drawn and written there.

    Args:
        folder: Named after everything that the samples depend on, see ``chunk_folder``.
        count: Number of samples.
        chunk_size: Samples of a chunk.
        draw: Draws the samples of these indices.
        title: Title of the progress bar.
    """
    starts = range(0, count, chunk_size)
    chunks = {start: range(start, min(start + chunk_size, count)) for start in starts}
    found = {start: _read(_path(folder, indices)) for start, indices in chunks.items()}
    missing = [start for start in starts if found[start] is None]
    if missing:
        remove_leftovers(folder.parent)  # and its subfolders: this one, and those of other settings
    for start in tracked(missing, title, "chunk", visible=bool(missing)):
        chunk = draw(chunks[start])
        with replacing(_path(folder, chunks[start]), _REMEDY) as temporary:
            save_file(chunk, temporary)
        found[start] = chunk
    return [chunk for chunk in found.values() if chunk is not None]


def image_denoiser(source: str, shape: tuple[int, ...] | None) -> tuple[Denoiser, tuple[int, ...]]:
    """The denoiser of a name, and the shape ``[C, H, W]`` of its images if ``shape`` does not say.

    Raises:
        ValueError: If the network is not a denoiser, or the shape is not known.
    """
    denoiser = load_pretrained(source).denoiser(source)
    config: Any = getattr(denoiser.network, "config", {})
    size = config.get("sample_size")
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    known: tuple[int, ...] = shape or (config.get("in_channels"), *sides)
    if len(known) != 3 or not all(known):
        raise ValueError(f"the shape of the images of {source} is not known; set data.init_args.shape to [C, H, W]")
    return denoiser, known


def chunk_folder(cache: Path, settings: str, device: torch.device, *networks: nn.Module) -> Path:
    """The folder of samples drawn with these settings and networks on a device of this kind.

    Noise on an accelerator is not that on the CPU, see ``Space.noise_source``.
    """
    kind = [] if device.type == "cpu" else [device.type]
    weights = [data for network in networks for data in weights_bytes(network).values()]
    return cache / content_key(settings, *weights, *kind)[:16]


def _path(folder: Path, indices: range) -> Path:
    return folder / f"{indices.start:08d}-{indices.stop:08d}.safetensors"


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
