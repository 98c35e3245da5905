"""Networks of waveforms: a folded UNet, a time predictor and a classifier."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from tag_lightning.networks.classifier import ImageClassifier
from tag_lightning.networks.time_predictor import TimePredictor
from tag_lightning.spectrogram import FLOOR, log_spectrogram

_REACH = 4  # samples to either side in the convolutions of WaveformCNN


class WaveformUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """diffusers' ``UNet1DModel`` on folded waveforms: ``fold`` successive samples become the channels of one position.

    Folding leaves the full resolution, where convolutions of a few channels cost most, to the first and last layer.
    Every residual block is told the timestep. Predicts epsilon.

    Args:
        sample_rate: Sample rate of the training data in Hz; a comparison refuses data of another. None fits any.
        in_channels: C, 1 for mono.
        fold: Samples per position; ``1`` is a plain ``UNet1DModel``.
        block_out_channels: Width of each level, multiples of 8; each but the last halves the number of positions.
        layers_per_block: Residual blocks per level, less one.

    Raises:
        ValueError: If ``fold`` is below 1, or a width is not a multiple of 8.
    """

    @register_to_config
    def __init__(
        self,
        sample_rate: int | None = None,
        in_channels: int = 1,
        fold: int = 8,
        block_out_channels: tuple[int, ...] = (32, 48, 64),
        layers_per_block: int = 1,
    ) -> None:
        super().__init__()
        if fold < 1:
            raise ValueError(f"fold must be at least 1, got {fold}")
        if len(block_out_channels) < 2 or any(width < 8 or width % 8 for width in block_out_channels):
            raise ValueError(
                "block_out_channels must be two or more multiples of 8, the groups of its normalisation, got "
                f"{list(block_out_channels)}"
            )
        from diffusers import UNet1DModel  # loads all of diffusers' UNets

        self.fold = fold
        self.shrink = fold * 2 ** (len(block_out_channels) - 1)
        self.unet: Any = UNet1DModel(  # diffusers' own types hide that it can be called
            in_channels=in_channels * fold,
            out_channels=in_channels * fold,
            time_embedding_type="positional",
            use_timestep_embedding=True,
            act_fn="mish",
            down_block_types=("DownResnetBlock1D",) * len(block_out_channels),
            mid_block_type="MidResTemporalBlock1D",
            up_block_types=("UpResnetBlock1D",) * (len(block_out_channels) - 1),
            out_block_type="OutConv1DBlock",
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
        )

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Epsilon ``[B, C, L]`` of waveforms ``x [B, C, L]`` at timesteps ``[B]``.

        Raises:
            ValueError: If L is not a multiple of ``fold`` and of the halvings.
        """
        batch, channels, length = x.shape
        if length % self.shrink:
            raise ValueError(
                f"WaveformUNet shortens waveforms {self.shrink} times, so their length must be a multiple of that, got "
                f"{length}"
            )
        folded = x.reshape(batch, channels, -1, self.fold).transpose(2, 3).reshape(batch, channels * self.fold, -1)
        output = self.unet(folded, timesteps).sample
        return output.reshape(batch, channels, self.fold, -1).transpose(2, 3).reshape(batch, channels, length)


class WaveformCNN(TimePredictor):
    """Blocks of 1-D convolution over nine samples, ReLU and average pooling by 4; a noise level shows in their power.

    The counterpart of ``SimpleCNN``, which arXiv 2510.11057 uses on the spectrograms of its audio. Two linear layers
    read the mean and the log-power of every channel of every block over time, as ``NoiseLevelCNN`` does, after batch
    normalisation, without which they hardly learn. It fits any length from ``4 ** len(widths)`` samples on.

    Args:
        sample_rate: Sample rate of the training data in Hz; a comparison refuses data of another. None fits any.
        in_channels: C, 1 for mono.
        num_timesteps: T.
        widths: Channels of each block; the last is the width of the first linear layer as well.
        conditions: See ``TimePredictor``.

    Raises:
        ValueError: If ``widths`` is empty.
    """

    @register_to_config
    def __init__(
        self,
        sample_rate: int | None = None,
        in_channels: int = 1,
        num_timesteps: int = 1000,
        widths: tuple[int, ...] = (16, 32, 64),
        conditions: dict[str, int] | None = None,
    ) -> None:
        super().__init__(num_timesteps, conditions)
        if not widths:
            raise ValueError("widths is empty; give at least one, such as [16, 32, 64]")
        pairs = pairwise((in_channels, *widths))
        self.blocks = nn.ModuleList(nn.Conv1d(a, b, 2 * _REACH + 1, padding=_REACH) for a, b in pairs)
        count = 2 * sum(widths)
        self.hidden = nn.Sequential(nn.BatchNorm1d(count), nn.Linear(count, widths[-1]), nn.SiLU())
        self.head = nn.Linear(widths[-1] + self.condition_width, num_timesteps)

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        """Logits ``[B, T]`` for waveforms ``x [B, C, L]`` in [-1, 1] plus noise."""
        features = []
        for block in self.blocks:
            x = F.relu(block(x))
            features += [x.mean(2), (x.square().mean(2) + 1e-6).log()]
            x = F.avg_pool1d(x, 4)
        return self.head(self.with_condition(self.hidden(torch.cat(features, 1)), values))


class SpectrogramClassifier(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """An ``ImageClassifier`` of the log-spectrogram of waveforms, whose channels are averaged.

    Args:
        sample_rate: Sample rate of the training data in Hz; a comparison refuses data of another. None fits any.
        num_classes: K.
        window: Samples per frame of the spectrogram; frames overlap by three quarters.
        widths: Channels of each stage; every stage halves the spectrogram.
        dropout: See ``ImageClassifier``.
    """

    @register_to_config
    def __init__(
        self,
        sample_rate: int | None = None,
        num_classes: int = 10,
        window: int = 256,
        widths: tuple[int, ...] = (16, 24, 32),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.window = window
        self.classifier = ImageClassifier(1, num_classes, widths, dropout)

    @property
    def num_features(self) -> int:
        """D, the width of ``features``."""
        return self.classifier.num_features

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return self.classifier.num_classes

    def features(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, D]`` of waveforms ``x [B, C, L]`` in [-1, 1], for Frechet distances."""
        return self.classifier.features(self._picture(x))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``[B, K]`` of waveforms ``x [B, C, L]`` in [-1, 1]."""
        return self.classifier(self._picture(x))

    def _picture(self, x: Tensor) -> Tensor:
        """The spectrogram as an image ``[B, 1, frequencies, frames]`` in [-1, 1]."""
        return 1 - 2 * log_spectrogram(x.mean(1), self.window)[:, None] / FLOOR
