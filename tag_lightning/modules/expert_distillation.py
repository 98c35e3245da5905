"""Distillation of a classifier of clean images into experts for noisy ones, without data."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from tag_lightning.diffusion import LinearSchedule, NoiseSchedule
from tag_lightning.metrics import Mean, agrees
from tag_lightning.modules.base import NetworkModule, noised
from tag_lightning.networks import NoiseExperts
from tag_lightning.networks.trial_run import require_accepts
from tag_lightning.pretrained import load_pretrained


class ExpertDistillationModule(NetworkModule):
    """Trains experts per range of noise to agree with a classifier of clean images, PPAP (arXiv 2212.05973, Section 4).

    The classifier sees a clean image, the expert of the timestep the same image with noise, and the loss is
    ``KL(softmax(classifier / temperature) || softmax(expert))`` in nats (knowledge transfer, Section 4.2; 0.25 is the
    temperature of the published code). All experts train at once, each on its timesteps; the published code trains them
    one after the other. No labels are needed, so that the images may be a denoiser's own: ``GeneratedDataModule``.

    Logs ``train/loss``, ``val/loss``, and ``val/agreement_<n>``, the share of noisy images of which expert n tells the
    class that the classifier tells of the clean image.

    Args:
        base: The classifier of clean images: a shipped network's name, a folder, or a checkpoint.
        schedule: Noise schedule of the denoiser to guide; None is ``LinearSchedule()``.
        num_experts: Number of experts; 5 is published.
        rank: Rank of what an expert adds to a convolution.
        temperature: Temperature of the classifier, above 0; below 1 sharpens its probabilities.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        noise_draws: Noise draws per validation sample.
        seed: Seed of timesteps and noise, and of the experts' first weights.

    Raises:
        ValueError: If a setting is out of range, or ``base`` is not an ``ImageClassifier``.
    """

    network: NoiseExperts
    schedule: NoiseSchedule

    def __init__(
        self,
        base: str = "digits/guide",
        schedule: NoiseSchedule | None = None,
        num_experts: int = 5,
        rank: int = 8,
        temperature: float = 0.25,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        noise_draws: int = 4,
        seed: int = 0,
    ) -> None:
        schedule = schedule or LinearSchedule()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
        if noise_draws < 1:
            raise ValueError(f"noise_draws must be at least 1, got {noise_draws}")
        classifier = load_pretrained(base).network
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = NoiseExperts.on(classifier, base, schedule.num_timesteps, num_experts, rank)
        super().__init__(network, schedule, optimizer, lr_scheduler, seed)
        self.temperature = temperature
        self.noise_draws = noise_draws
        self.agreements = torch.nn.ModuleList(Mean() for _ in range(num_experts))

    def try_network(self, example: Any) -> None:
        first = torch.zeros(1, dtype=torch.long)
        require_accepts(self.network, example.x.shape[1:], "model.base", first, **example.inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, *_ = self._compared(batch.x, self.generator(self.batches_trained))
        self.log("train/loss", loss.mean(), prog_bar=True)
        return loss.mean()

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        generator = self.generator(batch_idx)
        for _ in range(1 if self.sanity_checking else self.noise_draws):
            loss, agrees, timesteps = self._compared(batch.x, generator)
            self.mean_loss.update(loss.mean(), len(loss))
            experts = self.network.expert_of(timesteps)
            for n in range(self.network.num_experts):
                self.agreement(n).update(agrees[experts == n])

    def agreement(self, n: int) -> Mean:
        """The share of images on which expert ``n`` agrees with the classifier."""
        return cast(Mean, self.agreements[n])

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_agreements("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_agreements("test")

    def _log_agreements(self, verb: str) -> None:
        for n in range(self.network.num_experts):
            self.log(f"{verb}/agreement_{n}", self.agreement(n))

    def _compared(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The divergence ``[B]``, the agreement ``[B]``, and the timesteps ``[B]``."""
        with torch.no_grad():
            clean = self.network(x0)
        x_t, _, timesteps = noised(x0, self.schedule, generator)
        noisy = self.network(x_t, timesteps)
        target = F.log_softmax(clean / self.temperature, 1)
        loss = F.kl_div(F.log_softmax(noisy, 1), target, reduction="none", log_target=True).sum(1)
        return loss, agrees(noisy, clean.argmax(1)), timesteps
