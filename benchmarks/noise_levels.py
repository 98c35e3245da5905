"""Errors of the estimates of the noise level: ``python -m benchmarks.noise_levels digits/time_predictor digits``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.data_statistics import validation_images
from tag_lightning.diffusion import Denoiser, ImageSpace
from tag_lightning.evaluation.networks import load_denoiser
from tag_lightning.guidance import CalibratedNoise, NoiseLevel, PatchNoise, RegressedNoise, WaveletNoise
from tag_lightning.pretrained import load_pretrained


def measured(
    levels: Mapping[str, NoiseLevel], x0: Tensor, denoiser: Denoiser, timesteps: Sequence[int], seed: int = 0
) -> dict[str, list[tuple[float, float]]]:
    """Mean and standard deviation of ``log r`` on images that hold the right noise, by estimate and timestep.

    Args:
        levels: The estimates by name, with nothing left open.
        x0: Clean images ``[B, C, H, W]`` in [-1, 1].
        denoiser: Its schedule is that of the noise.
        timesteps: Training timesteps.
        seed: Seed of the noise.
    """
    space = ImageSpace(x0.shape[1:], range(len(x0)))
    found = {
        name: CalibratedNoise.measured(level, x0, space, denoiser, timesteps, seed=seed)
        for name, level in levels.items()
    }
    return {name: [(float(own.bias[t]), float(own.spread[t])) for t in timesteps] for name, own in found.items()}


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_levels", description=__doc__)
    parser.add_argument(
        "config", help="configuration whose validation images are meant: a path or a shipped one's name"
    )
    parser.add_argument("kind", help="folder of the networks noise_level and denoiser, such as digits")
    parser.add_argument("--count", type=int, default=120, help="number of images, evenly spaced")
    parser.add_argument("--patch-size", type=int, default=3, help="of PatchNoise; 2 for 16x16 images")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[39, 279, 519, 759])
    chosen = parser.parse_args(args)
    images = validation_images(chosen.config, chosen.count)
    denoiser = load_denoiser(f"{chosen.kind}/denoiser", images)
    levels = {
        "RegressedNoise": RegressedNoise(load_pretrained(f"{chosen.kind}/noise_level").network),
        f"PatchNoise({chosen.patch_size})": PatchNoise(chosen.patch_size),
        "WaveletNoise": WaveletNoise(),
    }
    printed = Table("estimate", *(f"t = {t}" for t in chosen.timesteps), title=f"log r on {len(images.x)} images")
    errors = measured(levels, images.x, denoiser, chosen.timesteps)
    for name, row in errors.items():
        printed.add_row(name, *(f"{bias:+.3f} ± {spread:.3f}" for bias, spread in row))
    Console().print(printed)


if __name__ == "__main__":
    main()
