"""Files of a comparison: results.json, Time-Gap curves, pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tag_lightning.evaluation.figures import figure_pixels, save_png, time_gap_curves
from tag_lightning.files import replacing


class Sound(NamedTuple):
    """A mono sound.

    Attributes:
        waveform: ``[L]`` in [-1, 1]; values outside are clipped.
        sample_rate: In Hz.
    """

    waveform: Tensor
    sample_rate: int


def write_results(path: Path, payload: Mapping[str, Any]) -> None:
    """Write ``payload`` as JSON; a reader sees the old file or the new one, never a part.

    NaN and infinity become null, which strict parsers read. Tensors and arrays become numbers or lists,
    dataclasses objects, and anything else JSON does not know its ``str``.

    Raises:
        OSError: If the folder cannot be written; names it and the way out.
    """
    text = json.dumps(_plain(payload), indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, arms: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write one row per arm as CSV; a value that an arm lacks is empty."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, ["arm", *columns], extrasaction="ignore")
        rows.writeheader()
        rows.writerows({"arm": name} | dict(figures) for name, figures in arms.items())


def write_time_gaps(folder: Path, curves: Mapping[str, tuple[list[int], Tensor]]) -> Tensor:
    """Write ``time_gap.csv`` and ``time_gap.png``.

    Args:
        folder: The folder.
        curves: Timesteps ``[S]`` and Time-Gaps ``[S]`` by arm.

    Returns:
        The picture, bytes ``[3, H, W]``.
    """
    with replacing(folder / "time_gap.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["arm", "timestep", "time_gap"])
        for name, (timesteps, gaps) in curves.items():
            rows.writerows([name, t, float(gap)] for t, gap in zip(timesteps, gaps, strict=True))
    pixels = figure_pixels(time_gap_curves({name: (t, gaps.numpy()) for name, (t, gaps) in curves.items()}))
    write_pictures(folder, {"time_gap": pixels})
    return pixels


def write_pictures(folder: Path, pictures: Mapping[str, Tensor]) -> None:
    """Write pictures, bytes ``[3, H, W]`` by name, as PNG files; a slash in a name makes a folder."""
    for name, pixels in pictures.items():
        save_png(pixels, folder / f"{name}.png")


def show_pictures(boards: Iterable[Any], pictures: Mapping[str, Tensor], step: int) -> None:
    """Add pictures, bytes ``[3, H, W]`` by name, to TensorBoard writers at a step."""
    for board in boards:
        for name, pixels in pictures.items():
            board.add_image(name, pixels, step)


def write_sounds(folder: Path, sounds: Mapping[str, Sound]) -> list[Path]:
    """Write sounds by name as WAV files of 16 bits and return their paths; a slash in a name makes a folder."""
    from scipy.io import wavfile

    paths = [folder / f"{name}.wav" for name in sounds]
    for path, (waveform, rate) in zip(paths, sounds.values(), strict=True):
        values = (waveform.detach().cpu().clamp(-1, 1) * 32767).round().to(torch.int16)
        with replacing(path) as temporary:
            wavfile.write(temporary, rate, values.numpy())
    return paths


def play_sounds(boards: Iterable[Any], sounds: Mapping[str, Sound], step: int) -> None:
    """Add sounds to TensorBoard writers at a step."""
    for board in boards:
        for name, (waveform, rate) in sounds.items():
            board.add_audio(name, waveform[None].clamp(-1, 1), step, rate)


def _plain(value: Any) -> Any:
    """``value`` in the types of strict JSON."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
