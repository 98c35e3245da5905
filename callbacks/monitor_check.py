"""A check of monitored metrics before the training."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tag_lightning.callbacks.guided_sampling import GuidedSampling
from tag_lightning.setting_checks import require_logged


class MonitorCheck(Callback):
    """Refuses metrics that nothing logs, before the training instead of after its first validation.

    The metrics are those that Lightning's trial validation logs; without one nothing is checked.
    """

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        monitors = {
            f"{type(callback).__name__}(monitor=...)": callback.monitor
            for callback in callbacks
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None
            if not isinstance(callback, EarlyStopping) or callback.strict
        }
        arms = {name for callback in callbacks if isinstance(callback, GuidedSampling) for name in callback.arm_names}
        require_logged(monitors, set(trainer.callback_metrics), arms)
