"""Training of property predictors: guides and judges."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from tag_lightning.metrics import Mean, agrees
from tag_lightning.modules.base import NetworkModule


class PropertyModule(NetworkModule):
    """Trains a classifier of clean samples.

    Logs ``train/loss`` (cross-entropy, nats), ``val/loss`` and ``val/accuracy`` in [0, 1].

    Args:
        network: Maps samples to logits ``[B, K]`` and has ``num_classes``.
        attribute: Attribute of the data that the network predicts.
        noise: Standard deviation of the Gaussian noise added to training samples, so that a guide can read
            the blurred estimates it meets while sampling.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a scheduler from the optimizer, stepped every training step.
        seed: Seed of that noise.

    Raises:
        ValueError: If ``noise`` is negative, or the data lack the attribute or have another number of classes.
    """

    def __init__(
        self,
        network: nn.Module,
        attribute: str = "label",
        noise: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, None, optimizer, lr_scheduler, seed)
        if noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.attribute = attribute
        self.noise = noise
        self.accuracy = Mean()

    def setup(self, stage: str) -> None:
        """Check the data against the network before the first step."""
        datamodule = getattr(self.trainer, "datamodule", None)
        available = getattr(datamodule, "num_classes", None)
        if available is not None:
            self._require_classes(available)
        super().setup(stage)

    def _require_classes(self, available: dict[str, int]) -> None:
        if self.attribute not in available:
            raise ValueError(f"the data have no attribute {self.attribute!r}, only {', '.join(sorted(available))}")
        classes, known = available[self.attribute], getattr(self.network, "num_classes", None)
        if known is not None and classes != known:
            raise ValueError(
                f"the data have {classes} classes of {self.attribute!r} but the network has {known}; "
                "set model.init_args.network.init_args.num_classes"
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.network(self.blurred(batch.x, self.noise), **batch.inputs)
        loss = F.cross_entropy(logits, batch.attributes[self.attribute])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def evaluate(self, batch: Any, batch_idx: int) -> None:
        target = batch.attributes[self.attribute]
        logits = self.network(batch.x, **batch.inputs)
        self.accuracy.update(agrees(logits, target))
        self.mean_loss.update(F.cross_entropy(logits, target), len(target))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/accuracy", self.accuracy, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log("test/accuracy", self.accuracy)
