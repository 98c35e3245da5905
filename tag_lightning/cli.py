"""The command line: Lightning's own, with the run's folder in one place and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import tag_lightning.datamodules
import tag_lightning.modules  # noqa: F401
from tag_lightning.callbacks import GuidedSampling, SavePretrained, progress_bars
from tag_lightning.callbacks.exact_resume import ExactResume
from tag_lightning.callbacks.run_record import RunLogger, SaveCheckedConfig, StartRunLogger
from tag_lightning.checkpoint_io import AtomicCheckpointIO
from tag_lightning.cli_errors import TRACEBACK_VARIABLE, OneLineParser, print_error, readable, wants_traceback
from tag_lightning.files import require_writable
from tag_lightning.guidance.strengths import require_strength

_DESCRIPTION = (
    "Train and evaluate Temporal Alignment Guidance. A first run: "
    "python -m tag_lightning fit --config configs/digits/time_predictor.yaml"
)
# Lightning's own words for `predict` speak of inference on the user's data.
_VERBS = {"predict": {"description": "Draw and write the samples of one arm."}}
_EXPECTED_ERRORS = (ValueError, OSError, FloatingPointError, MisconfigurationException)
_UNTRAINED = "untrained"


class TagCLI(LightningCLI):
    """LightningCLI whose run lives in ``trainer.default_root_dir``: logs, checkpoints, configuration, results.

    ``sampling`` configures the ``GuidedSampling`` callback, which comes before every other callback so that it
    sees averaged weights while they are swapped in.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(GuidedSampling, "sampling")
        parser.set_defaults({"trainer.use_distributed_sampler": False, "trainer.default_root_dir": "runs/default"})

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        given = self._get(self.config_init, "trainer")
        _require_sound(given)
        root = Path(given["default_root_dir"])
        require_writable(root)
        sampling = self._get(self.config_init, "sampling")
        if isinstance(sampling.strength, int | float):
            require_strength("sampling.strength", sampling.strength)
        dumped = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=True, format="yaml")
        sampling.run_config = yaml.safe_load(dumped)
        callbacks = given.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        # A trial must leave no trace, and Lightning's own rule spares only its own checkpoint callback.
        trial = bool(given.get("fast_dev_run")) or given.get("barebones")
        if not trial and given.get("enable_checkpointing") is not False:
            callbacks = [*callbacks, *_checkpointing(root, callbacks)]
        kwargs["callbacks"] = [
            StartRunLogger(),
            ExactResume(),
            sampling,
            *callbacks,
            *([] if given.get("barebones") else progress_bars(given)),
            SavePretrained(),
        ]
        if given.get("logger") is None and not given.get("barebones"):
            # An evaluation has one step only, which would be one more point in the curves of the training.
            kwargs["logger"] = RunLogger(root, part=None if self.subcommand == "fit" else self.subcommand)
        if given.get("plugins") is None:
            kwargs["plugins"] = [AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        self._require_last()

    def before_validate(self) -> None:
        self._require_weights()

    def before_test(self) -> None:
        self._require_weights()

    def before_predict(self) -> None:
        self._require_weights()

    def _require_weights(self) -> None:
        """Refuse to evaluate what nobody has trained, unless that is asked for."""
        given = self.config_init[self.subcommand]
        if given.get("ckpt_path") is None:
            raise ValueError(
                f"{self.subcommand} needs weights: give --ckpt_path last, or a checkpoint file; "
                f"--ckpt_path {_UNTRAINED} takes the model as it is built"
            )
        if given["ckpt_path"] == _UNTRAINED:
            given["ckpt_path"] = None
        self._require_last()

    def _require_last(self) -> None:
        """Refuse to go on from nothing: Lightning would take untrained weights."""
        if self.config_init[self.subcommand].get("ckpt_path") != "last":
            return
        if not all(isinstance(logger, RunLogger) for logger in self.trainer.loggers):
            return  # checkpoints may be wherever another logger has them
        ours = Path(self.trainer.default_root_dir) / "checkpoints"
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        folders = [Path(c.dirpath or ours) for c in callbacks]
        if not any(next(folder.glob("last*.ckpt"), None) for folder in folders):
            where = ", ".join(str(folder) for folder in folders)
            way_out = "leave it out to start afresh" if self.subcommand == "fit" else "give a checkpoint file"
            raise FileNotFoundError(f"--ckpt_path last: there is no last.ckpt in {where}; {way_out}")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as given: Lightning would let the checkpoint's overrule the command line."""


def _checkpointing(root: Path, callbacks: list[Any]) -> list[ModelCheckpoint]:
    """What saves the run where nobody has said how: all there is to resume from."""
    if any(isinstance(c, ModelCheckpoint) for c in callbacks):
        return []
    return [ModelCheckpoint(dirpath=root / "checkpoints", save_last=True, enable_version_counter=False)]


def _require_sound(trainer: Any) -> None:
    """Refuse what Lightning would stumble over without a word of which setting it is."""
    if trainer["default_root_dir"] is None:
        raise ValueError("trainer.default_root_dir must be a folder, got null; the run's files go there")
    every = trainer.get("check_val_every_n_epoch")
    if every is not None and every < 1:
        raise ValueError(f"trainer.check_val_every_n_epoch must be at least 1, got {every}")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; expected errors end in one line and exit code 1.

    Args:
        args: Arguments; None takes those of the process.
    """
    try:
        TagCLI(
            datamodule_class=None,
            parser_class=OneLineParser,
            args=list(args) if args is not None else None,
            save_config_callback=SaveCheckedConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "python -m tag_lightning", "description": _DESCRIPTION} | _VERBS,
            seed_everything_default=0,
            # Modules build their own; Lightning's would replace the optimizer and drop the scheduler.
            auto_configure_optimizers=False,
        )
    except _EXPECTED_ERRORS as error:
        if wants_traceback():
            raise
        text = f"{readable(str(error))} (set {TRACEBACK_VARIABLE}=1 for the traceback)"
        # The mistakes in settings, files and data that the others are, every process finds by itself.
        print_error(text, only_here=isinstance(error, FloatingPointError))
        sys.exit(1)
