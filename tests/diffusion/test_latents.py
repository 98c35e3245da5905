"""Latents of an autoencoder in the scale of diffusers' pipelines."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from tag_lightning.diffusion import Autoencoder, LatentSpace
from tag_lightning.networks import image_autoencoder


class Doubling(nn.Module):
    """An autoencoder without loss: ``z = 2 x`` in two channels."""

    def __init__(self, **config: object) -> None:
        super().__init__()
        self.config = config
        self.like = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def encode(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=2 * x)

    def decode(self, z: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=z / 2)


X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CHANNELS = {"latents_mean": [0.5, -1.0], "latents_std": [2.0, 4.0]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 2 * X),
        ({"scaling_factor": 0.3}, 0.6 * X),
        ({"scaling_factor": 0.3, "shift_factor": 0.1}, 0.3 * (2 * X - 0.1)),
        (
            CHANNELS | {"scaling_factor": 0.3},
            0.3 * (2 * X - torch.tensor([0.5, -1.0]).view(2, 1, 1)) / torch.tensor([2.0, 4.0]).view(2, 1, 1),
        ),
    ],
    ids=["plain", "factor", "shift", "channels"],
)
def test_latents_have_the_scale_of_the_configuration_and_come_back(config: dict, expected: Tensor) -> None:
    autoencoder = Autoencoder(Doubling(**config))
    torch.testing.assert_close(autoencoder.encode(X), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(autoencoder(X), X, atol=1e-12, rtol=1e-12)


def test_the_scale_is_that_of_stable_diffusion() -> None:
    """As in the image processing of diffusers' pipelines: ``vae.decode(latents / vae.config.scaling_factor)``."""
    network = image_autoencoder(widths=(8, 8)).eval()
    network.register_to_config(scaling_factor=0.18215)
    latents = torch.randn(2, 4, 4, 4)
    theirs = network.decode(latents / network.config.scaling_factor).sample
    assert torch.allclose(Autoencoder(network).decode(latents), theirs, atol=1e-6)
    x = torch.randn(2, 3, 8, 8)
    mode = network.encode(x).latent_dist.mode()
    assert torch.allclose(Autoencoder(network).encode(x), mode * network.config.scaling_factor, atol=1e-6)


def test_an_autoencoder_without_a_posterior_will_do() -> None:
    """``AutoencoderTiny``, the decoder of previews, has latents at once."""
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()  # fmt: skip
    autoencoder = Autoencoder(tiny)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    latents = autoencoder.encode(x)
    assert torch.equal(latents, tiny.encode(x).latents)
    assert torch.equal(autoencoder.decode(latents), tiny.decode(latents).sample)


def test_the_decoder_is_differentiable_and_encoding_is_not() -> None:
    autoencoder = Autoencoder(image_autoencoder(widths=(8, 8)).requires_grad_(False))
    latents = torch.randn(2, 4, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(autoencoder.decode(latents).square().sum(), latents)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().min()) > 0
    assert not autoencoder.encode(torch.randn(2, 3, 8, 8, requires_grad=True)).requires_grad


def test_what_does_not_belong_together_is_refused() -> None:
    autoencoder = Autoencoder(image_autoencoder(widths=(8, 8)))
    with pytest.raises(ValueError, match="autoencoder has latents of 4 channels, but the samples have 3"):
        LatentSpace((3, 8, 8), autoencoder, range(2))
    with pytest.raises(ValueError, match="scaling_factor of the autoencoder must be above 0, got -1"):
        Autoencoder(Doubling(scaling_factor=-1))
    assert isinstance(autoencoder.network, AutoencoderKL)
