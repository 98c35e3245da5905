"""The paper's larger time predictor for images."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tag_lightning.networks.time_predictor import TimePredictor


class UNetEncoder(TimePredictor):
    """The encoder half of a UNet, average pooling and one linear layer (the larger variant of arXiv 2510.11057).

    diffusers' own encoder: residual blocks, attention at the lowest resolution, GroupNorm and SiLU. It is told no
    timestep. The defaults have 16.1 M parameters; the paper's variant has 17.4 M, and corrects no better than a
    ``SimpleCNN`` of 1.5 M.

    Args:
        sample_size: Height and width of the images, a multiple of ``2 ** (len(widths) - 1)``.
        in_channels: C, 1 for grey and 3 for RGB images.
        num_timesteps: T.
        widths: Channels at each resolution, multiples of 8.
        layers_per_block: Residual blocks at each resolution.
        conditions: See ``TimePredictor``.

    Raises:
        ValueError: If the image cannot be halved between resolutions, or a width is not a multiple of 8.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        num_timesteps: int = 1000,
        widths: tuple[int, ...] = (128, 256, 256, 256),
        layers_per_block: int = 3,
        conditions: dict[str, int] | None = None,
    ) -> None:
        super().__init__(num_timesteps, conditions)
        shrink = 2 ** (len(widths) - 1)
        if sample_size < shrink or sample_size % shrink:
            raise ValueError(
                f"UNetEncoder halves the image {len(widths) - 1} times, so sample_size must be a multiple of {shrink}, "
                f"got {sample_size}; resize the images or give fewer widths"
            )
        if any(width < 8 or width % 8 for width in widths):
            raise ValueError(f"widths must be multiples of 8, the groups of its normalisation, got {list(widths)}")
        from diffusers.models.autoencoders.vae import Encoder  # loads all of diffusers' UNets

        self.encoder = Encoder(
            in_channels,
            widths[-1],
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=layers_per_block,
            norm_num_groups=8,
            double_z=False,
        )
        self.head = nn.Linear(widths[-1] + self.condition_width, num_timesteps)

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        """Logits ``[B, T]`` for images ``x [B, C, H, W]`` in [-1, 1] plus noise."""
        return self.head(self.with_condition(self.encoder(x).mean((2, 3)), values))
