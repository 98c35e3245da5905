"""Training by ``torch.compile``."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from tag_lightning.compilation import naming_the_compiler


class CompiledTraining(Callback):
    """Compiles the network that is trained, for the training steps alone.

    Compilation takes minutes before the first step, and once more if the shape of the batches changes. Validation,
    sampling (see ``sampling.compile``) and saved files are as without it.

    Raises:
        ValueError: If the module has no ``network``, or it cannot be compiled.
    """

    def __init__(self) -> None:
        self._compiled: tuple[nn.Module, _Compiled] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(getattr(pl_module, "network", None), nn.Module):
            raise ValueError(f"{type(pl_module).__name__} has no network for CompiledTraining; leave the callback out")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        if self._compiled is None or self._compiled[0] is not network:
            self._compiled = network, _Compiled(network)
        vars(network)["forward"] = self._compiled[1]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        vars(pl_module.network).pop("forward", None)


class _Compiled:
    def __init__(self, network: nn.Module) -> None:
        self._forward = torch.compile(network.forward)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        with naming_the_compiler("trainer.callbacks has CompiledTraining", "leave it out"):
            return self._forward(*args, **inputs)
