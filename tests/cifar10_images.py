"""Test images of CIFAR-10 from the archive beside the repository."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SHARED = Path(__file__).parents[2] / "shared" / "data"
ARCHIVE = SHARED / "cifar10.zip"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def held_out_images(every: int) -> tuple[Tensor, Tensor]:
    """Each ``every``-th test image in [-1, 1], ``[B, 3, 32, 32]``, and the labels, ``[B]``."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        files = [PurePosixPath(name) for name in archive.namelist() if name.endswith(".jpg")]
        chosen = sorted(file for file in files if file.parts[-3] == "test")[::every]
        pixels = [np.asarray(Image.open(archive.open(str(file))).convert("RGB")) for file in chosen]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x, torch.tensor([CLASSES.index(file.parts[-2]) for file in chosen])
