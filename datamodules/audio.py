"""The base of audio data: mono waveforms of one length and one sample rate."""

from __future__ import annotations

from typing import Any

from tag_lightning.datamodules.base import TableDataModule


class AudioDataModule(TableDataModule):
    """Base class of mono waveforms ``[B, 1, L]`` in [-1, 1].

    Args:
        sample_rate: Samples per second of all waveforms, in Hz.
        length: L, samples per clip.
        batch_size: Clips per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Raises:
        ValueError: If ``sample_rate`` is below 1 or ``length`` below 2.
    """

    def __init__(self, sample_rate: int, length: int, batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(batch_size, **kwargs)
        if sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1 Hz, got {sample_rate}")
        if length < 2:
            raise ValueError(f"length must be at least 2 samples per clip, got {length}")
        self.sample_rate = sample_rate
        self.length = length

    def audio_arguments(self, classes: dict[str, int]) -> dict[str, Any]:
        """``network_arguments`` of these waveforms.

        Args:
            classes: Number of values of each class attribute.
        """
        shape = {"sample_size": self.length, "in_channels": 1, "out_channels": 1}
        return shape | {"sample_rate": self.sample_rate, "num_classes": classes}
