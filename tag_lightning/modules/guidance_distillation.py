"""Distillation of classifier-free guidance into adapters."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from tag_lightning.diffusion import NoiseSchedule
from tag_lightning.metrics import Mean
from tag_lightning.modules.base import NetworkModule
from tag_lightning.networks import AdaptedUNet
from tag_lightning.networks.guidance_adapters import AdapterKind
from tag_lightning.pretrained import load_pretrained


class GuidanceDistillationModule(NetworkModule):
    """Trains adapters that answer as classifier-free guidance would, AGD (Jensen and Sadat 2025, arXiv 2503.07274).

    The loss is the mean squared distance to the guided noise on the states of guided trajectories (the loss ``l2`` of
    the published code), at the class, timestep and guidance scale of each. The denoiser under the adapters stays as it
    is. Logs ``train/loss``, ``val/loss`` and ``val/remaining``, the share of the squared distance between the answer
    with the condition alone and the guided one that the adapters leave: 1 before training, 0 at best.

    Args:
        base: The conditional denoiser, a ``UNet2DModel`` of classes that predicts noise: a shipped network's name, a
            folder, or a checkpoint.
        width: Width of the adapters.
        kind: Kind of the adapters, see ``AdaptedUNet``.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        seed: Seed of the adapters' first weights.

    Raises:
        ValueError: If ``base`` is not such a denoiser, or the data are not guided trajectories of it.
    """

    network: AdaptedUNet
    schedule: NoiseSchedule

    def __init__(
        self,
        base: str = "digits/conditional_denoiser",
        width: int = 32,
        kind: AdapterKind = "perceptron",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        loaded = load_pretrained(base)
        if not isinstance(loaded.network, UNet2DModel) or loaded.schedule is None:
            raise ValueError(f"base {base} is not a UNet2DModel with its noise schedule; give a denoiser of images")
        if loaded.prediction_type != "epsilon":
            raise ValueError(f"base {base} predicts {loaded.prediction_type}; give a denoiser that predicts epsilon")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = AdaptedUNet.on(loaded.network, base, width, kind)
        super().__init__(network, loaded.schedule, optimizer, lr_scheduler, seed)
        self.base = base
        self.first_loss = Mean()

    def setup(self, stage: str) -> None:
        """Check that the data are guided trajectories of this denoiser, and take the range of their scales."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            drawn_by, scales = getattr(datamodule, "denoiser", None), getattr(datamodule, "scale_range", None)
            if scales is None:
                raise ValueError(
                    f"GuidanceDistillationModule trains on guided trajectories, got {type(datamodule).__name__}; use "
                    "GuidedTrajectoriesDataModule"
                )
            if drawn_by != self.base:
                raise ValueError(
                    f"the trajectories were drawn by {drawn_by}, but the adapters are for {self.base}; give "
                    "data.init_args.denoiser and model.init_args.base the same name"
                )
            if stage == "fit":
                self.network.scale_range.copy_(torch.tensor(scales))
        super().setup(stage)

    def try_network(self, example: Any) -> None:
        """Nothing to try: the data were drawn by the same network."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.mse_loss(self._answer(batch, **batch.inputs), batch.epsilon)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        self.mean_loss.update(F.mse_loss(self._answer(batch, **batch.inputs), batch.epsilon), len(batch.x))
        self.first_loss.update(F.mse_loss(self._answer(batch), batch.epsilon), len(batch.x))

    def on_validation_epoch_end(self) -> None:
        self._log_remaining("val")
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        self._log_remaining("test")
        super().on_test_epoch_end()

    def _log_remaining(self, verb: str) -> None:
        # Both means are over all processes already.
        remaining = self.mean_loss.compute() / self.first_loss.compute()
        self.log(f"{verb}/remaining", remaining, prog_bar=True, rank_zero_only=True)
        self.first_loss.reset()

    def _answer(self, batch: Any, **inputs: Tensor) -> Tensor:
        condition = self.network.conditioning.of_data(batch.attributes)
        return self.network(batch.x, batch.timesteps, **condition, **inputs).sample
