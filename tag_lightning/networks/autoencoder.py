"""Small autoencoders of images."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import AutoencoderKL


def image_autoencoder(
    in_channels: int = 3,
    latent_channels: int = 4,
    widths: Sequence[int] = (16, 32),
    layers_per_block: int = 1,
    norm_num_groups: int = 8,
    mid_block_add_attention: bool = False,
) -> AutoencoderKL:
    """An ``AutoencoderKL`` of diffusers, whose own types keep the command line from giving it more than one block.

    Args:
        in_channels: Channels of the images.
        latent_channels: Channels of the latents.
        widths: Channels of each block. Every block but the last halves height and width.
        layers_per_block: Residual layers of each block of the encoder; the decoder has one more.
        norm_num_groups: Groups of the normalisations; divides every width.
        mid_block_add_attention: Attention at the smallest size.

    Raises:
        ValueError: If there is no width, or ``norm_num_groups`` does not divide one.
    """
    if not widths or any(width < 1 or width % norm_num_groups for width in widths):
        raise ValueError(f"widths must be multiples of norm_num_groups = {norm_num_groups}, got {list(widths)}")
    return AutoencoderKL(
        in_channels=in_channels,
        out_channels=in_channels,
        down_block_types=("DownEncoderBlock2D",) * len(widths),  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * len(widths),  # type: ignore[arg-type]
        block_out_channels=tuple(widths),  # type: ignore[arg-type]
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        mid_block_add_attention=mid_block_add_attention,
    )
