"""Training of an autoencoder: its loss, the measured scale of its latents, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from sampling_runs import tiny_data, tiny_trainer
from tiny_runs import seeded

from tag_lightning.callbacks import PretrainedExport
from tag_lightning.diffusion import Autoencoder
from tag_lightning.modules import AutoencoderModule
from tag_lightning.networks import image_autoencoder
from tag_lightning.pretrained import load_pretrained


def tiny_autoencoder(seed: int = 0) -> AutoencoderKL:
    return seeded(lambda: image_autoencoder(widths=(4, 4), latent_channels=2, norm_num_groups=2), seed)


def test_the_loss_is_that_of_its_formula() -> None:
    module, x = AutoencoderModule(tiny_autoencoder(), kl_weight=0.5, seed=3), tiny_data().table("val")[[0, 1]].x
    posterior = module.network.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=module.generator(0))
    z = posterior.mean + posterior.std * noise
    kl = (posterior.mean.square() + posterior.var - 1 - posterior.logvar).flatten(1).sum(1) / 2
    reconstruction = (module.network.decode(z).sample - x).abs().flatten(1).sum(1)
    loss = module._losses(x, *module._coded(x, 0))
    torch.testing.assert_close(loss, reconstruction + 0.5 * kl)


def test_training_reduces_the_error_and_stores_the_scale_of_the_latents(tmp_path: Path) -> None:
    module, data = AutoencoderModule(tiny_autoencoder(), 1e-3, lambda p: torch.optim.AdamW(p, 1e-2)), tiny_data()
    x = data.table("val")[list(range(256))].x
    before = float((module.network(x).sample - x).detach().abs().mean())
    settings = {"limit_train_batches": 30, "limit_val_batches": 4, "enable_checkpointing": True}
    trainer = tiny_trainer(tmp_path, PretrainedExport(), max_epochs=1, **settings)
    trainer.fit(module, datamodule=data)
    saved = load_pretrained(tmp_path / "pretrained").network
    assert float((saved(x).sample - x).abs().mean()) < before / 2
    latents = Autoencoder(saved).encode(x)
    assert float(latents.std(correction=0)) == pytest.approx(1, rel=1e-4)
    # A run that goes on takes the scale of its checkpoint, which its own configuration does not have.
    resumed = AutoencoderModule(tiny_autoencoder(1), 1e-3)
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    tiny_trainer(tmp_path / "second", max_epochs=1).fit(resumed, datamodule=tiny_data(), ckpt_path=checkpoint)
    assert resumed.network.config.scaling_factor == saved.config.scaling_factor
    taken = AutoencoderModule(tiny_autoencoder(1))
    taken.load_weights(tmp_path / "pretrained")
    assert torch.equal(taken.network.eval()(x).sample, saved(x).sample)
    assert taken.network.config.scaling_factor == saved.config.scaling_factor
    other = seeded(lambda: image_autoencoder(widths=(4, 4), latent_channels=3, norm_num_groups=2), 0)
    with pytest.raises(ValueError, match="another architecture: latent_channels 2 there and 3 here; use"):
        AutoencoderModule(other).load_weights(tmp_path / "pretrained")


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_an_impossible_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="kl_weight must be a finite number of at least 0"):
        AutoencoderModule(tiny_autoencoder(), weight)


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths must be multiples of norm_num_groups = 8, got \[12\]"):
        image_autoencoder(widths=[12])
    with pytest.raises(ValueError, match="widths must be multiples"):
        image_autoencoder(widths=[])
