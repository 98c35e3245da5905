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
    network. Logs ``train/loss``, ``val/loss`` and ``val/mae_<property>`` in the data's unit.

    Args:
        network: Regressor with ``properties``, ``mean`` and ``spread``.
        noise: Standard deviation of the Gaussian noise added to training positions (angstrom) and features, so
            that a guide can read the blurred estimates it meets while sampling.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        seed: Seed of that noise.

    Raises:
        ValueError: If ``noise`` is negative, or the data lack a property, have non-finite values or one value only.
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
        values = self._targets(datamodule.table("train").attributes).double()
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"{int((~values.isfinite()).any(1).sum())} training molecules lack one of the properties "
                f"{', '.join(self.network.properties)}; leave them out or predict other properties"
            )
        mean, spread = mean_and_spread(values, self.network.properties)
        self.network.mean.copy_(mean)
        self.network.spread.copy_(spread)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = self.blurred(batch.x, self.noise)
        error = self.network(x, **batch.inputs) - self._targets(batch.attributes)
        loss = (error / self.network.spread).abs().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        error = (self.network(batch.x, **batch.inputs) - self._targets(batch.attributes)).abs()
        self.mean_loss.update((error / self.network.spread).mean(), len(error))
        for name, column in zip(self.network.properties, error.T, strict=True):
            self.mean_error(name).update(column)

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

    def _targets(self, attributes: dict[str, Tensor]) -> Tensor:
        return torch.stack([attributes[name] for name in self.network.properties], 1)
