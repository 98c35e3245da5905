"""Training of a regressor of the noise level."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from tag_lightning.diffusion import LinearSchedule, NoiseSchedule, centred, per_sample
from tag_lightning.modules.base import NetworkModule
from tag_lightning.networks.trial_run import require_accepts


class NoiseLevelModule(NetworkModule):
    """Trains a network to tell how much noise a sample holds beside the noise that its timestep should have.

    Signal and noise vary independently: ``x = sqrt(a_t) x0 + r sqrt(1 - a_t) epsilon`` with the timestep uniform and
    ``log r`` uniform, so that the network is right off the marginals of the forward process as well, where a time
    predictor was never trained. Logs ``train/loss`` and ``val/loss``, the mean squared error of ``log r``; d Gaussian
    coordinates allow ``1 / (2 d)``.

    Args:
        network: ``(x_t [B, ...], timesteps [B], **inputs) -> log r [B]``: ``NoiseLevelCNN``, ``EGNNNoiseLevel``.
        schedule: Noise schedule of the denoiser to correct; None is ``LinearSchedule()``.
        min_ratio: Smallest ``r``, above 0.
        max_ratio: Largest ``r``, above ``min_ratio``.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        noise_draws: Noise draws per validation sample.
        seed: Seed of timesteps, ratios and noise.

    Raises:
        ValueError: If a setting is out of range, or network and schedule differ in their number of timesteps.
    """

    schedule: NoiseSchedule

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule | None = None,
        min_ratio: float = 0.5,
        max_ratio: float = 3.0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        noise_draws: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(network, schedule or LinearSchedule(), optimizer, lr_scheduler, seed)
        total, known = self.schedule.num_timesteps, getattr(network, "num_timesteps", None)
        if known is not None and known != total:
            raise ValueError(
                f"the network knows {known} timesteps but the schedule has {total}; set "
                "model.init_args.network.init_args.num_timesteps to the schedule's"
            )
        if not 0 < min_ratio < max_ratio < math.inf:
            raise ValueError(f"min_ratio and max_ratio must satisfy 0 < min < max, got {min_ratio} and {max_ratio}")
        if noise_draws < 1:
            raise ValueError(f"noise_draws must be at least 1, got {noise_draws}")
        self.bounds = math.log(min_ratio), math.log(max_ratio)
        self.noise_draws = noise_draws

    def try_network(self, example: Any) -> None:
        first = torch.zeros(1, dtype=torch.long)
        require_accepts(self.network, example.x.shape[1:], "model.network", first, **example.inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch, self.generator(self.batches_trained))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        generator = self.generator(batch_idx)
        for _ in range(1 if self.sanity_checking else self.noise_draws):
            self.mean_loss.update(self._loss(batch, generator), len(batch.x))

    def _loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        x, timesteps, log_ratio = self.disturbed(batch.x, generator, batch.inputs.get("mask"))
        return F.mse_loss(self.network(x, timesteps, **batch.inputs), log_ratio)

    def disturbed(
        self, x0: Tensor, generator: torch.Generator, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples with more or less noise than their timestep should have.

        Args:
            x0: Clean samples ``[B, ...]``.
            generator: Random generator on the device of ``x0``.
            mask: Mask ``[B, N]`` of point clouds, whose noise is centred and masked.

        Returns:
            The samples ``[B, ...]``, their timesteps ``[B]`` and ``log r [B]``.
        """
        count, device = len(x0), x0.device
        timesteps = torch.randint(self.schedule.num_timesteps, (count,), generator=generator, device=device)
        low, high = self.bounds
        log_ratio = low + (high - low) * torch.rand(count, generator=generator, device=device, dtype=x0.dtype)
        epsilon = torch.randn(x0.shape, generator=generator, device=device, dtype=x0.dtype)
        if mask is not None:
            epsilon = centred(epsilon, mask)
        return self.schedule.add_noise(x0, per_sample(log_ratio.exp(), x0) * epsilon, timesteps), timesteps, log_ratio
