"""The paper's time predictor for images."""

from __future__ import annotations

from itertools import pairwise

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tag_lightning.networks.time_predictor import TimePredictor


class SimpleCNN(TimePredictor):
    """Blocks of 3x3 convolution, ReLU and 2x2 average pooling, then one linear layer (arXiv 2510.11057).

    The defaults have 1.41 M parameters on 32x32 RGB; in the paper such a network corrects samples as well as a
    UNet encoder of twelve times the size.

    Args:
        sample_size: Height and width of the images, a multiple of ``2 ** len(widths)``.
        in_channels: C, 1 for grey and 3 for RGB images.
        num_timesteps: T.
        widths: Channels of each block.
        conditions: See ``TimePredictor``.

    Raises:
        ValueError: If the image cannot be halved once per block.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        num_timesteps: int = 1000,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        conditions: dict[str, int] | None = None,
    ) -> None:
        super().__init__(num_timesteps, conditions)
        if not widths:
            raise ValueError("widths is empty; give at least one, such as [32, 64, 128, 256]")
        shrink = 2 ** len(widths)
        if sample_size < shrink or sample_size % shrink:
            raise ValueError(
                f"SimpleCNN halves the image {len(widths)} times, so sample_size must be a multiple of {shrink}, "
                f"got {sample_size}; resize the images or give fewer widths"
            )
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
            for a, b in pairwise((in_channels, *widths))
        ]
        self.blocks = nn.Sequential(*blocks)
        features = widths[-1] * (sample_size // shrink) ** 2
        self.head = nn.Linear(features + self.condition_width, num_timesteps)

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        """Logits ``[B, T]`` for images ``x [B, C, H, W]`` in [-1, 1] plus noise."""
        return self.head(self.with_condition(self.blocks(x).flatten(1), values))
