"""The trained network as a folder that ``load_pretrained`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from tag_lightning.diffusion import NoiseSchedule
from tag_lightning.modules.base import NetworkModule
from tag_lightning.pretrained import load_pretrained, model_card, save_pretrained


class PretrainedExport(Callback):
    """Writes the network and its schedule to ``<run>/pretrained`` when ``fit`` ends, averaged weights included."""

    def __init__(self) -> None:
        self._trained = False
        self._figures: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"figures": self._figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._figures = state_dict["figures"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._figures |= {name: float(value) for name, value in trainer.callback_metrics.items()}

    # Not called if there is nothing to train.
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = trainer.global_step > 0

    # After `on_train_end`, in which weight averaging puts its average in place.
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (
            not trainer.is_global_zero
            or getattr(trainer, "fast_dev_run", False)
            or not isinstance(pl_module, NetworkModule)
        ):
            return
        folder = Path(trainer.default_root_dir) / "pretrained"
        if not self._trained and trainer.global_step > 0 and trainer.ckpt_path and not folder.exists():
            # The run was cut between its last checkpoint and the export.
            saved = load_pretrained(trainer.ckpt_path)
            self._export(trainer, saved.network, saved.schedule)
            return
        if not self._trained:
            rank_zero_warn(
                f"fit trained nothing, so {folder} stays as it is: no steps were left to take "
                f"(trainer.max_steps is {trainer.max_steps}, max_epochs {trainer.max_epochs}, limit_train_batches "
                f"{trainer.limit_train_batches}, and {trainer.global_step} steps were taken before)"
            )
            return
        self._trained = False
        self._export(trainer, pl_module.network, pl_module.schedule)

    def _export(self, trainer: Trainer, network: nn.Module, schedule: NoiseSchedule | None) -> None:
        folder = Path(trainer.default_root_dir)
        data = getattr(trainer, "datamodule", None)
        config = folder / "config.yaml"
        command = f"python -m tag_lightning fit --config {config}" if config.is_file() else "Trainer.fit, in Python"
        figures = self._figures | {name: float(value) for name, value in trainer.callback_metrics.items()}
        source = "own loaders" if data is None else type(data).__name__
        save_pretrained(
            folder / "pretrained", network, schedule, model_card(network, schedule, figures, source, command)
        )
        rank_zero_info(f"The trained network is in {folder / 'pretrained'}")
