"""Latent diffusion: the scale of an autoencoder's latents, and the space of samples that have a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.diffusion.spaces import ImageSpace


class Autoencoder(nn.Module):
    """An autoencoder of diffusers, such as ``AutoencoderKL``, with latents in the scale that a denoiser sees.

    ``latents = (z - shift_factor) scaling_factor``, or ``(z - latents_mean) / latents_std scaling_factor`` where the
    network's configuration has these, as in diffusers' pipelines; ``z`` is the mean of the posterior.

    Args:
        network: Has ``encode`` and ``decode`` like diffusers' models, and a ``config``.

    Raises:
        ValueError: If ``network`` is not an autoencoder, or its ``scaling_factor`` is not above 0.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not (hasattr(network, "encode") and hasattr(network, "decode")):
            raise ValueError(
                f"{type(network).__name__} is not an autoencoder: it has no encode and decode; give one such as "
                "diffusers' AutoencoderKL"
            )
        self.network = network
        config: Any = getattr(network, "config", {})
        factor = config.get("scaling_factor") or 1.0
        if factor <= 0:
            raise ValueError(f"scaling_factor of the autoencoder must be above 0, got {factor}")
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            mean, std = [config.get("shift_factor") or 0.0], [1.0]
        like = next(network.parameters(), torch.empty(0))
        mean, std = (torch.as_tensor(values, device=like.device, dtype=torch.float64) for values in (mean, std))
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1).to(like.dtype), persistent=False)
        self.register_buffer("scale", (factor / std).reshape(1, -1, 1, 1).to(like.dtype), persistent=False)

    @property
    def latent_channels(self) -> int | None:
        """Channels of the latents; None if the network's configuration does not tell."""
        config: Any = getattr(self.network, "config", {})
        return config.get("latent_channels")

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[B, c, h, w]`` of images ``x [B, C, H, W]`` in [-1, 1], without gradients."""
        with torch.no_grad():
            encoded = self.network.encode(x)  # type: ignore[operator]
            z = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
            return (z - self.mean) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``[B, C, H, W]``, about in [-1, 1], of latents ``[B, c, h, w]``; differentiable."""
        return self.network.decode(latents / self.scale + self.mean).sample  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Images ``x [B, C, H, W]`` encoded and decoded again."""
        return self.decode(self.encode(x))


class LatentSpace(ImageSpace):
    """Latents ``[B, c, h, w]`` of images: the sampler moves latents, guides and judges see the decoded images.

    Denoiser, time predictors and noise live in the latents, which have no range to be clipped to.

    Args:
        shape: ``(c, h, w)`` of one latent.
        decoder: An ``Autoencoder``, or a differentiable function from latents ``[B, c, h, w]`` to images.
        indices: Global index of each image of the batch.
        device: Device of the samples.
        dtype: Floating point type of the samples.
        clip_range: Bounds of a clean latent; None leaves it unbounded.
        image_range: Bounds of a finished image; None leaves it unbounded.

    Raises:
        ValueError: If there is no decoder, or it is an ``Autoencoder`` of latents with other channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        decoder: Autoencoder | Callable[[Tensor], Tensor],
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        clip_range: tuple[float, float] | None = None,
        image_range: tuple[float, float] | None = (-1.0, 1.0),
    ) -> None:
        super().__init__(shape, indices, device, dtype, clip_range)
        self.decoder = decoder.decode if isinstance(decoder, Autoencoder) else decoder
        self.image_range = image_range
        if not callable(self.decoder):
            raise ValueError(f"LatentSpace needs a decoder from latents to images, got {decoder!r}; use ImageSpace")
        channels = decoder.latent_channels if isinstance(decoder, Autoencoder) else None
        if channels is not None and channels != self.shape[0]:
            raise ValueError(
                f"the autoencoder has latents of {channels} channels, but the samples have {self.shape[0]}; denoiser "
                "and autoencoder must belong together"
            )

    def decode(self, x0: Tensor) -> Tensor:
        return self.decoder(x0)

    def finished(self, x: Tensor) -> Tensor:
        images = self.decoder(x)
        return images if self.image_range is None else images.clamp(*self.image_range)
