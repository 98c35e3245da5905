"""Tables that map a list of indices to one batch."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from tag_lightning.datamodules.batch import Batch
from tag_lightning.progress import tracked

_WORKERS = 8


class ImageTable(Dataset):
    """Images with attributes.

    Args:
        images: Bytes ``[N, C, H, W]``, or files that are decoded on access.
        attributes: Class indices or quantities by name, ``[N]`` each.
    """

    def __init__(self, images: Tensor | ImageFiles, attributes: dict[str, Tensor]) -> None:
        self.images = images
        self.attributes = attributes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: list[int]) -> Batch:
        return Batch(
            self.images[indices].float() / 127.5 - 1,
            {name: values[indices] for name, values in self.attributes.items()},
            {},
        )


class TintedTable(Dataset):
    """Every grey image in every hue: white becomes the hue, black stays black.

    Sample ``i`` is image ``i // num_hues`` in hue ``i % num_hues``; the attribute ``hue`` is added.

    Args:
        grey: Images with one channel.
        num_hues: Number of hues, spaced evenly around the colour circle, starting at red.
    """

    def __init__(self, grey: ImageTable, num_hues: int = 8) -> None:
        self.grey = grey
        self.num_hues = num_hues
        # A saturation below 1 keeps noise-free channels from becoming constant.
        colours = [colorsys.hsv_to_rgb(k / num_hues, 0.8, 1.0) for k in range(num_hues)]
        self.colours = torch.tensor(colours).reshape(num_hues, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.grey) * self.num_hues

    def __getitem__(self, indices: list[int]) -> Batch:
        batch = self.grey[[i // self.num_hues for i in indices]]
        hues = torch.tensor(indices, dtype=torch.long) % self.num_hues
        brightness = (batch.x + 1) / 2
        return Batch(brightness * self.colours[hues] * 2 - 1, batch.attributes | {"hue": hues}, {})


class MirroredTable(Dataset):
    """Every image and its mirror image; sample ``N + i`` mirrors sample ``i``."""

    def __init__(self, table: ImageTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return 2 * len(self.table)

    def __getitem__(self, indices: list[int]) -> Batch:
        batch = self.table[[i % len(self.table) for i in indices]]
        mirrored = (torch.tensor(indices, dtype=torch.long) >= len(self.table)).reshape(-1, 1, 1, 1)
        return batch._replace(x=torch.where(mirrored, batch.x.flip(-1), batch.x))


class TensorTable(Dataset):
    """Samples of one shape that are used as they are, such as vectors and waveforms.

    Args:
        samples: ``[N, ...]``.
        attributes: Class indices or quantities by name, ``[N]`` each.
    """

    def __init__(self, samples: Tensor, attributes: dict[str, Tensor]) -> None:
        self.samples = samples
        self.attributes = attributes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: list[int]) -> Batch:
        return Batch(self.samples[indices], {name: values[indices] for name, values in self.attributes.items()}, {})


class ImageFiles:
    """Image files, decoded and resized on access.

    Args:
        paths: Paths of the images.
        size: Height and width after resizing; the shorter side is scaled, the centre cropped.
        channels: 1 for grey, 3 for RGB.
    """

    def __init__(self, paths: Sequence[Path], size: int, channels: int) -> None:
        self.paths = list(paths)
        self.size = size
        self.channels = channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: list[int]) -> Tensor:
        pixels = torch.empty(len(indices), self.channels, self.size, self.size, dtype=torch.uint8)
        for row, i in zip(pixels, indices, strict=True):
            row.copy_(self._decode(self.paths[i]))
        return pixels

    def load(self) -> Tensor:
        """Decode all images in parallel, to bytes ``[N, C, size, size]``.

        Raises:
            ValueError: If a file is not a readable image; names it.
        """
        with ThreadPoolExecutor(_WORKERS) as pool:
            decoded = pool.map(self._decode, self.paths)
            return torch.stack(list(tracked(decoded, "Reading images", "image", len(self))))

    def _decode(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as opened:
                image = _in_bytes(ImageOps.exif_transpose(opened)).convert("L" if self.channels == 1 else "RGB")
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the image {path}: {error}; repair, convert or remove the file") from error
        scale = self.size / min(image.size)
        if image.size != (self.size, self.size):
            width, height = (max(self.size, round(side * scale)) for side in image.size)
            left, top = (width - self.size) // 2, (height - self.size) // 2
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if self.channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _in_bytes(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255.
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels (Pillow's mode {image.mode}) have no known range, expected 8 or 16 bits each")
    return image


def fixed_order(length: int) -> Tensor:
    """A permutation of ``0 .. length - 1`` for splits, the same on every machine."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(0))


def select(table: ImageTable, indices: Tensor) -> ImageTable:
    """The images at ``indices [n]``, in that order."""
    chosen = indices.tolist()
    images = table.images
    if isinstance(images, ImageFiles):
        images = ImageFiles([images.paths[i] for i in chosen], images.size, images.channels)
    else:
        images = images[indices]
    return ImageTable(images, {name: values[indices] for name, values in table.attributes.items()})
