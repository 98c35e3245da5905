"""Training of an autoencoder, whose latents a denoiser then learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.metrics import Mean
from tag_lightning.modules.base import NetworkModule
from tag_lightning.pretrained import load_pretrained
from tag_lightning.pretrained.store import CHECKPOINT_KEY


class AutoencoderModule(NetworkModule):
    """Trains diffusers' ``AutoencoderKL`` (Rombach et al. 2022, arXiv 2112.10752, App. G), without a discriminator.

    The loss of a sample is ``sum |x - D(z)| + kl_weight KL(q(z | x) | N(0, 1))`` with ``z ~ q(z | x)``, summed over its
    pixels and latents. Every validation stores ``scaling_factor``, 1 over the standard deviation of the validation
    data's latents, in the network's configuration, as Stable Diffusion's pipelines expect it. Logs ``train/loss``,
    ``val/loss``, ``val/scaling_factor`` and ``val/pixel_error``, the mean absolute error of reconstruction in the
    unit of ``x``.

    Args:
        network: The autoencoder.
        kl_weight: Weight of the divergence, at least 0; about 1e-6 is published for photographs.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        seed: Seed of the draws of ``z``.

    Raises:
        ValueError: If ``kl_weight`` is negative or not finite.
    """

    network: Any  # mypy takes diffusers' lazily imported classes for empty ones

    def __init__(
        self,
        network: AutoencoderKL,
        kl_weight: float = 1e-6,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, None, optimizer, lr_scheduler, seed)  # type: ignore[arg-type]
        require_non_negative("kl_weight", kl_weight)
        self.kl_weight = kl_weight
        self.pixel_error, self.latent, self.squared_latent = Mean(), Mean(), Mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        posterior, decoded = self._coded(batch.x, self.batches_trained)
        loss = self._losses(batch.x, posterior, decoded).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        posterior, decoded = self._coded(batch.x, batch_idx)
        self.mean_loss.update(self._losses(batch.x, posterior, decoded))
        self.pixel_error.update((batch.x - decoded).abs())
        self.latent.update(posterior.mode())
        self.squared_latent.update(posterior.mode().square())

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/pixel_error", self.pixel_error, prog_bar=True)
        spread = float((self.squared_latent.compute() - self.latent.compute().square()).sqrt())
        self.latent.reset()
        self.squared_latent.reset()
        if spread > 0 and not self.sanity_checking:
            self.network.register_to_config(scaling_factor=1 / spread)
            self.log("val/scaling_factor", 1 / spread)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log("test/pixel_error", self.pixel_error)

    def load_weights(self, source: str | Path) -> None:
        """As ``NetworkModule.load_weights``; takes the measured ``scaling_factor`` as well."""
        self._take_scale(load_pretrained(source).network.config)
        super().load_weights(source)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As ``NetworkModule.on_load_checkpoint``; takes the measured ``scaling_factor`` as well."""
        self._take_scale(checkpoint.get(CHECKPOINT_KEY, {}).get("config", {}))
        super().on_load_checkpoint(checkpoint)

    def _take_scale(self, config: Any) -> None:
        if "scaling_factor" in config:
            self.network.register_to_config(scaling_factor=config["scaling_factor"])

    def _coded(self, x: Tensor, index: int) -> tuple[Any, Tensor]:
        posterior = self.network.encode(x).latent_dist
        return posterior, self.network.decode(posterior.sample(self.generator(index))).sample

    def _losses(self, x: Tensor, posterior: Any, decoded: Tensor) -> Tensor:
        return (x - decoded).abs().flatten(1).sum(1) + self.kl_weight * posterior.kl()
