"""A small residual classifier, for guides and judges."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class ImageClassifier(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """A residual network with group normalisation, so that the logits of a sample do not depend on its batch.

    Args:
        in_channels: C, 1 for grey and 3 for RGB images.
        num_classes: K.
        widths: Channels of each stage; every stage halves the image.
        dropout: Probability of dropping a feature before the last layer, in [0, 1).

    Raises:
        ValueError: If ``num_classes`` is below 1 or ``widths`` empty.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        widths: tuple[int, ...] = (32, 64, 128),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if num_classes < 1 or not widths:
            raise ValueError(
                f"num_classes must be at least 1 and widths not empty, got {num_classes} and {list(widths)}"
            )
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.stages = nn.Sequential(*(_ResidualStage(a, b) for a, b in pairwise((widths[0], *widths))))
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    @property
    def num_features(self) -> int:
        """D, the width of ``features``."""
        return self.head.in_features

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return self.head.out_features

    def features(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, D]`` of images ``x [B, C, H, W]`` in [-1, 1], for Frechet distances."""
        return self.stages(self.stem(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``[B, K]`` of images ``x [B, C, H, W]`` in [-1, 1]."""
        return self.head(self.drop(self.features(x)))


class _ResidualStage(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return F.avg_pool2d(self.skip(x) + h, 2)
