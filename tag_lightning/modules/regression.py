"""Training of regressors: guides and judges of molecules."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from tag_lightning.metrics import Mean
from tag_lightning.modules.base import NetworkModule
from tag_lightning.networks import EGNNPropertyPredictor
from tag_lightning.networks.quantity_units import mean_and_spread


class RegressionModule(NetworkModule):
    """Trains a regressor of properties of clean molecules, by L1 in units of each property's spread.

    Mean and spread (mean absolute deviation) of the training data (Hoogeboom et al. 2022, App. E) are stored in the
    network. Logs ``train/loss``, ``val/loss`` and ``val/mae_<property>`` in the data's unit. A property that a molecule
    lacks (NaN) counts in none of them; the molecule's other properties do.

    Args:
        network: Regressor with ``properties``, ``mean`` and ``spread``.
        noise: Standard deviation of the Gaussian noise added to training positions (angstrom) and features, so
            that a guide can read the blurred estimates it meets while sampling.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        seed: Seed of that noise.

    Raises:
        ValueError: If ``noise`` is negative, or the data lack a property or have one value of it only.
    """

    network: EGNNPropertyPredictor

    def __init__(
        self,
        network: EGNNPropertyPredictor,
        noise: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, None, optimizer, lr_scheduler, seed)
        if noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.noise = noise
        self.errors = torch.nn.ModuleDict({name: Mean() for name in network.properties})

    def setup(self, stage: str) -> None:
        """Check the data against the network and, before training, measure their mean and spread."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if hasattr(datamodule, "table"):
            self._require_properties(datamodule)
            if stage == "fit":
                self._measure(datamodule)
        super().setup(stage)

    def _require_properties(self, datamodule: Any) -> None:
        available = datamodule.table("val").attributes
        missing = [name for name in self.network.properties if name not in available]
        if missing:
            known = ", ".join(sorted(available)) or "(none)"
            raise ValueError(
                f"the network predicts {missing[0]!r}, but the data have {known}; add it to data.init_args.properties"
            )

    def _measure(self, datamodule: Any) -> None:
        attributes = datamodule.table("train").attributes
        for k, name in enumerate(self.network.properties):
            values = attributes[name][attributes[name].isfinite()]
            mean, spread = mean_and_spread(values[:, None], [name])
            self.network.mean[k], self.network.spread[k] = mean[0], spread[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        error, known = self._errors(self.blurred(batch.x, self.noise), batch)
        loss = self._mean(error, known)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        error, known = self._errors(batch.x, batch)
        self.mean_loss.update(self._mean(error, known), int(known.sum()))
        for name, column, there in zip(self.network.properties, error.T, known.T, strict=True):
            self.mean_error(name).update(column[there])

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_errors("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_errors("test")

    def _log_errors(self, verb: str) -> None:
        for name in self.network.properties:
            self.log(f"{verb}/mae_{name}", self.mean_error(name), prog_bar=True)

    def mean_error(self, name: str) -> Mean:
        """The mean absolute error of one property."""
        return cast(Mean, self.errors[name])

    def _errors(self, x: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Absolute errors ``[B, K]`` in the data's units, 0 where a property is unknown, and which are known."""
        targets = torch.stack([batch.attributes[name] for name in self.network.properties], 1)
        known = targets.isfinite()
        predicted = self.network(x, **batch.inputs)
        return (predicted - targets.where(known, predicted.detach())).abs(), known

    def _mean(self, error: Tensor, known: Tensor) -> Tensor:
        return (error / self.network.spread).sum() / known.sum().clamp(min=1)
