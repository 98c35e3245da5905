"""Folders of sound files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tag_lightning.datamodules.audio import AudioDataModule
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.class_folders import ClassFolders
from tag_lightning.datamodules.tables import TensorTable
from tag_lightning.progress import tracked

_EXTENSIONS = (".wav", ".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64")
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Decoders of lossy formats overshoot a little.
_TOLERANCE = 0.1


class AudioFolderDataModule(AudioDataModule):
    """Sound files in ``root/<split>/<class>/*``, read by the package soundfile (``pip install tag_lightning[audio]``).

    ``train`` and ``test`` are required; without ``val``, a fixed tenth of the files of ``train`` validates. A file is
    cut into as many clips of ``length`` samples as fit, one after another; the rest at its end is left out. Channels
    are averaged to mono. Nothing is resampled, and levels stay as they are. Attribute ``label`` numbers the classes of
    ``train`` in alphabetical order. Hidden files and folders are ignored. All clips are kept in memory, 4 bytes per
    sample.

    Args:
        root: The folder.
        sample_rate: Samples per second that every file has, in Hz.
        length: Samples per clip.
        batch_size: Clips per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Raises:
        ValueError: If a file cannot be read, has another sample rate, is shorter than one clip, or has values that are
            not finite or outside [-1, 1]; names it. Also if a class has no files in a split, is missing in ``train``
            or contains folders.
        ImportError: If soundfile is not installed.
    """

    def __init__(
        self, root: str, sample_rate: int = 16000, length: int = 16384, batch_size: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(sample_rate, length, batch_size, **kwargs)
        self.root = Path(root)
        self._folders = ClassFolders(self.root, "sounds", "a folder of sounds", _EXTENSIONS)

    @property
    def network_arguments(self) -> dict[str, Any]:
        # A missing folder is reported with the others, before training.
        return self.audio_arguments(self._class_counts if (self.root / "train").is_dir() else {})

    @property
    def _class_counts(self) -> dict[str, int]:
        return {"label": len(self._folders.classes)}

    def prepare_data(self) -> None:
        """Check the header of every file, so that a mistake shows before training and sampling."""
        self._folders.require()
        soundfile = _soundfile()
        for folder in sorted({self._folders.folder(split) for split in _SPLITS}):
            for path in self._folders.files(folder)[0]:
                try:
                    header = soundfile.info(path)
                except soundfile.SoundFileError as error:
                    raise _unreadable(path, error) from error
                self._require_header(path, header.samplerate, header.frames)

    def build(self, split: Split) -> TensorTable:
        self.num_classes = self._class_counts
        paths, labels = self._folders.files(self._folders.folder(split))
        chosen = self._folders.chosen(split, len(paths))
        places = list(range(len(paths))) if chosen is None else chosen.tolist()
        soundfile = _soundfile()
        clips = [self._clips(paths[i], soundfile) for i in tracked(places, "Reading sounds", "file", len(places))]
        counts = torch.tensor([len(part) for part in clips])
        return TensorTable(torch.cat(clips), {"label": torch.tensor(labels)[places].repeat_interleave(counts)})

    def _clips(self, path: Path, soundfile: Any) -> Tensor:
        """The clips of a file, ``[n, 1, L]``."""
        try:
            values, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise _unreadable(path, error) from error
        self._require_header(path, rate, len(values))
        sound = torch.from_numpy(values)
        if not bool(sound.isfinite().all()):
            raise ValueError(f"{path} has values that are NaN or infinite; repair or remove the file")
        if float(sound.abs().max()) > 1 + _TOLERANCE:
            raise ValueError(
                f"{path} has values up to {float(sound.abs().max()):.3g}, outside [-1, 1]; lower its level or save it "
                "as 16-bit integers"
            )
        mono = sound.mean(1).clamp(-1, 1)
        return mono[: len(mono) // self.length * self.length].reshape(-1, 1, self.length)

    def _require_header(self, path: Path, rate: int, frames: int) -> None:
        if rate != self.sample_rate:
            raise ValueError(
                f"{path} has {rate} Hz but sample_rate is {self.sample_rate}; set data.init_args.sample_rate {rate}, "
                f"or resample the file to {self.sample_rate} Hz"
            )
        if frames < self.length:
            raise ValueError(
                f"{path} has {frames} samples, fewer than the {self.length} of one clip; lower data.init_args.length "
                "or remove the file"
            )


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = str(error).rpartition(": ")[2].rstrip(".") or type(error).__name__
    return ValueError(f"cannot read the sound {path}: {reason}; repair, convert or remove the file")


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without the library libsndfile
        raise ImportError(
            f"AudioFolderDataModule reads sounds by the package soundfile, which cannot be imported ({error}); install "
            "it: pip install 'tag_lightning[audio]'"
        ) from error
    return soundfile
