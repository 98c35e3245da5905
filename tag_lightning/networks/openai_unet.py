"""diffusers' UNet with the options of OpenAI's that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor


class OpenAIUNet(UNet2DModel):
    """UNet of improved- and guided-diffusion (Nichol and Dhariwal 2021, Dhariwal and Nichol 2021).

    Every other argument is that of ``UNet2DModel``.

    Args:
        sample_size: Height and width in pixels.
        in_channels: Channels of the images.
        out_channels: Channels of the output.
        block_out_channels: Width of each level.
        layers_per_block: Residual blocks of each level.
        down_block_types: Kind of each level on the way down.
        up_block_types: Kind of each level on the way up.
        downsample_type: ``conv``, or ``resnet`` for residual blocks.
        upsample_type: Likewise.
        attention_head_dim: Width of one attention head; None with ``num_heads``.
        resnet_time_scale_shift: ``scale_shift``, or ``default`` to add the timestep.
        attn_norm_num_groups: Groups of the norm before the attention of the middle block.
        num_class_embeds: Number of classes to be conditioned on.
        num_heads: Attention heads of every level, whatever its width; None divides each level's width by
            ``attention_head_dim``, as ``UNet2DModel`` does.
        timestep_scale: Factor of the timestep before its embedding: 1000 / T for models trained with
            ``rescale_timesteps``.
        model_channels: Width of the timestep embedding, a quarter of that of its MLP; None is the width of the first
            level.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: Sequence[int] = (128, 256, 256),
        layers_per_block: int = 2,
        down_block_types: Sequence[str] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types: Sequence[str] = ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        attention_head_dim: int | None = None,
        resnet_time_scale_shift: str = "scale_shift",
        attn_norm_num_groups: int = 32,
        num_class_embeds: int | None = None,
        num_heads: int | None = None,
        timestep_scale: float = 1.0,
        model_channels: int | None = None,
    ) -> None:
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            downsample_type=downsample_type,
            upsample_type=upsample_type,
            attention_head_dim=attention_head_dim,
            resnet_time_scale_shift=resnet_time_scale_shift,
            attn_norm_num_groups=attn_norm_num_groups,
            num_class_embeds=num_class_embeds,
            time_embedding_dim=None if model_channels is None else 4 * model_channels,
        )
        self.timestep_scale = timestep_scale
        if model_channels is not None:
            self.time_proj = Timesteps(model_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.time_embedding = TimestepEmbedding(model_channels, 4 * model_channels)
        for layer in self.modules():  # type: ignore[attr-defined]
            if num_heads is not None and isinstance(layer, Attention):
                layer.heads = num_heads
                layer.scale = (layer.inner_dim / num_heads) ** -0.5

    def forward(self, sample: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As ``UNet2DModel``, for timesteps ``[B]`` in 0 .. T-1."""
        told = timestep * self.timestep_scale
        return super().forward(sample, told, *args, **kwargs)  # type: ignore[misc]
