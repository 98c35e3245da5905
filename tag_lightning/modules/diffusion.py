"""Training of the denoiser."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from tag_lightning.diffusion import (
    NULL_TIMESTEP_KEY,
    PREDICTION_KEY,
    Conditioning,
    Denoiser,
    LinearSchedule,
    NoiseSchedule,
    PredictionType,
    per_sample,
    prediction_target,
    require_prediction_type,
    trained_prediction_type,
)
from tag_lightning.modules.base import NetworkModule, noised
from tag_lightning.networks import EGNNDenoiser
from tag_lightning.networks.trial_run import require_accepts


class DiffusionModule(NetworkModule):
    """Trains a network to predict the noise in a sample (Ho et al. 2020, Eq. 14), the clean sample, or the velocity.

    Logs ``train/loss`` and ``val/loss``, the mean squared error of the prediction (over real atoms for molecules). For
    an exponential moving average of the weights add ``WarmedUpEMA``.

    Args:
        network: Called as ``network(x_t, timesteps)``, for example diffusers' ``UNet2DModel``.
        schedule: None is ``LinearSchedule()``, the published one.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        seed: Seed of timesteps and noise.
        timestep_dropout: Probability, in [0, 1), with which the network is told the null timestep in place of a
            sample's own, as ``ClassifierFreeNoiseAwareness`` needs; 0.1 is published. The saved network remembers it.
        condition: Attribute of the data that the network is told, a class for a UNet with ``num_class_embeds`` or a
            quantity for an ``EGNNDenoiser(num_context=1)``; None trains an unconditional network. The saved network
            remembers it. Validation tells the network every sample's own condition.
        condition_dropout: Probability, in [0, 1), with which the network is told the null condition in its place, as
            ``CFG`` needs (Ho and Salimans 2022, arXiv 2207.12598, Algorithm 1; 0.1 and 0.2 are
            published).
        prediction_type: The quantity the network learns, ``epsilon``, ``sample`` (x0) or ``v_prediction``; see
            ``Denoiser``. None keeps the one that ``network`` was trained for, epsilon if it is new. The saved network
            remembers it.

    Raises:
        ValueError: If a dropout is outside [0, 1), or ``network`` takes no condition and ``condition`` names one.
    """

    schedule: NoiseSchedule

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        timestep_dropout: float = 0.0,
        condition: str | None = None,
        condition_dropout: float = 0.1,
        prediction_type: PredictionType | None = None,
    ) -> None:
        super().__init__(network, schedule or LinearSchedule(), optimizer, lr_scheduler, seed)
        for name, value in (("timestep_dropout", timestep_dropout), ("condition_dropout", condition_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        self.timestep_dropout = timestep_dropout
        self.condition_dropout = condition_dropout
        self.conditioning = (
            None if condition is None else Conditioning.for_training(network, condition, condition_dropout)
        )
        trained_for = trained_prediction_type(network)
        self.prediction_type = trained_for if prediction_type is None else require_prediction_type(prediction_type)
        if self.prediction_type != trained_for and hasattr(network, "register_to_config"):
            network.register_to_config(**{PREDICTION_KEY: self.prediction_type})  # type: ignore[operator]
        if timestep_dropout > 0 and hasattr(network, "register_to_config"):  # others cannot be saved anyway
            network.register_to_config(**{NULL_TIMESTEP_KEY: True})  # type: ignore[operator]

    def setup(self, stage: str) -> None:
        """Check the data against the condition and, before training, measure a quantity's mean and spread."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if self.conditioning is not None and hasattr(datamodule, "example"):
            self.conditioning.require_data(getattr(datamodule, "num_classes", {}), datamodule.example.attributes)
            if stage == "fit" and isinstance(self.network, EGNNDenoiser):
                name = self.conditioning.attribute
                self.network.measure_context(datamodule.table("train").attributes[name], name)
        super().setup(stage)

    def try_network(self, example: Any) -> None:
        inputs = example.inputs | self._condition(example.attributes)
        for timestep in (0, self.schedule.null_timestep) if self.timestep_dropout > 0 else (0,):
            shown = torch.full((1,), timestep)
            require_accepts(self.network, example.x.shape[1:], "model.network", shown, **inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch, self.batches_trained, self.timestep_dropout, self.condition_dropout)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        self.mean_loss.update(self._loss(batch, batch_idx), len(batch.x))

    def sampling_resources(self) -> dict[str, Any]:
        """The denoiser, for guided sampling."""
        return {"denoiser": Denoiser(self.network, self.schedule, self.prediction_type)}

    def _loss(self, batch: Any, index: int, dropout: float = 0.0, condition_dropout: float = 0.0) -> Tensor:
        mask, generator = batch.inputs.get("mask"), self.generator(index)
        x_t, epsilon, timesteps = noised(batch.x, self.schedule, generator, mask)
        target = prediction_target(self.prediction_type, self.schedule, batch.x, epsilon, timesteps)
        if dropout > 0:
            dropped = torch.rand(len(timesteps), generator=generator, device=timesteps.device) < dropout
            timesteps = timesteps.masked_fill(dropped, self.schedule.null_timestep)
        condition = self._condition(batch.attributes)
        if condition and condition_dropout > 0:
            assert self.conditioning is not None
            dropped = torch.rand(len(timesteps), generator=generator, device=timesteps.device) < condition_dropout
            null = self.conditioning.null(len(timesteps), timesteps.device)
            condition = {name: torch.where(dropped, null[name], values) for name, values in condition.items()}
        output = self.network(x_t, timesteps, **batch.inputs, **condition)
        predicted = output if isinstance(output, Tensor) else output.sample
        weights = self.sample_weights(batch)
        if weights is not None:
            root = per_sample(weights.sqrt(), predicted)
            predicted, target = root * predicted, root * target
        if mask is not None:  # padding has no error and would dilute the mean
            predicted, target = predicted[mask], target[mask]
        return F.mse_loss(predicted, target)

    def sample_weights(self, batch: Any) -> Tensor | None:
        """The weight of each sample's squared error, ``[B]``; None weighs all the same."""
        return None

    def _condition(self, attributes: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's argument for the condition; nothing for an unconditional one."""
        return {} if self.conditioning is None else self.conditioning.of_data(attributes)
