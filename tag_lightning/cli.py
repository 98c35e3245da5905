"""The command line: LightningCLI with a fixed folder per run, and errors in one line."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_module

from tag_lightning.callbacks import GuidedSampling, PretrainedExport, progress_bars
from tag_lightning.callbacks.exact_resume import ExactResume
from tag_lightning.callbacks.monitor_check import MonitorCheck
from tag_lightning.callbacks.run_record import RunLoggerSync, SaveCheckedConfig
from tag_lightning.callbacks.save_and_stop import SaveAndStop
from tag_lightning.checkpoint_io import AtomicCheckpointIO
from tag_lightning.cli_errors import (
    TRACEBACK_VARIABLE,
    OneLineParser,
    one_line,
    print_error,
    print_line,
    raised_by,
    wants_traceback,
)
from tag_lightning.config_files import LayeredConfig, config_file, require_distinct_keys
from tag_lightning.datamodules.base import TableDataModule
from tag_lightning.evaluation.arm_result import FailedArmError
from tag_lightning.files import disk_error, full_disk, is_full, remove_leftovers, require_writable
from tag_lightning.guidance.strengths import require_strength
from tag_lightning.interruption import Interrupted, interruption
from tag_lightning.memory import memory_error
from tag_lightning.modules import ComparisonModule
from tag_lightning.modules.base import NetworkModule
from tag_lightning.network_arguments import complete_network
from tag_lightning.pretrained.store import network_folder
from tag_lightning.run_logger import RunLogger
from tag_lightning.setting_checks import require_possible_trainer, require_seed, require_workers, run_folder

_DESCRIPTION = (
    "Train and evaluate Temporal Alignment Guidance. A first run: "
    "python -m tag_lightning fit --config digits/time_predictor. All guidance methods, with cost and parameters: "
    "python -m tag_lightning arms"
)
# Lightning's own description speaks of inference on the user's data.
_VERBS = {"predict": {"description": "Draw and write the samples of one arm."}}
_TITLES = {
    "model": "Network and training (a LightningModule)",
    "data": "Data (a LightningDataModule)",
    "sampling": "Comparison of ways of sampling, the arms, at validation",
}
_EXPECTED_ERRORS = (ValueError, OSError, FloatingPointError, MisconfigurationException)
_UNTRAINED = "untrained"


class TagCLI(LightningCLI):
    """LightningCLI whose run lives in ``trainer.default_root_dir``: logs, checkpoints, configuration, results.

    ``sampling`` configures the ``GuidedSampling`` callback.

    Args:
        args: Arguments of the command line; None takes those of the process.
        **kwargs: See ``LightningCLI``.
    """

    def __init__(self, args: Sequence[str] | None = None, **kwargs: Any) -> None:
        self._verb = next(iter(sys.argv[1:] if args is None else args), None)
        described = {verb: texts for verb, texts in _VERBS.items() if verb in self.subcommands()}
        super().__init__(
            args=None if args is None else list(args),
            parser_kwargs={"prog": "python -m tag_lightning", "description": _DESCRIPTION} | described,
            **kwargs,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The verb of the command line alone, since each parser takes a tenth of a second; all if it has none."""
        verbs = LightningCLI.subcommands()
        return {self._verb: verbs[self._verb]} if self._verb in verbs else verbs

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=LayeredConfig,
            type=config_file,
            help="YAML file, or name of a shipped configuration such as digits/time_predictor; later ones win.",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(GuidedSampling, "sampling")
        parser.set_defaults({"trainer.use_distributed_sampler": False, "trainer.default_root_dir": "runs/default"})
        # The first lines of Lightning's docstrings say nothing here.
        for name, group in (parser.groups or {}).items():
            group.title = _TITLES.get(name, group.title)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and let the data say what the network needs and the user did not."""
        super().parse_arguments(parser, args)
        verb = self.config.subcommand
        settings = self.config[verb]
        require_seed(settings.get("seed_everything"))
        if not _has_table(settings.get("data")) or settings.get("model") is None:
            return
        if any(file is not None and not os.path.isfile(str(file)) for file in settings.get("config") or []):
            return  # a pipe, which can be read only once
        parse = parser.parse_object if isinstance(args, dict | Namespace) else parser.parse_args
        given = parse(args, defaults=False)[verb].model
        data = parser.instantiate_classes(Namespace({"subcommand": verb, verb: Namespace(data=settings.data)}))[
            verb
        ].data
        complete_network(settings.model, given, data)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init[self.subcommand]
        _check(settings)
        trainer, sampling = settings["trainer"], settings["sampling"]
        interruption.folder = folder = Path(trainer["default_root_dir"])
        require_writable(folder)
        remove_leftovers(folder)
        dumped = self.parser.dump(self.config, skip_none=True, format="yaml")
        sampling.run_config = yaml.safe_load(dumped)[self.subcommand]
        kwargs["callbacks"] = _callbacks(trainer, sampling)
        if trainer["logger"] is None and not trainer["barebones"]:
            # An evaluation has a single step, which would be one more point in the curves of the training.
            part = None if self.subcommand == "fit" else self.subcommand
            kwargs["logger"] = RunLogger(Path(trainer["default_root_dir"]), part=part)
        if trainer["plugins"] is None:
            kwargs["plugins"] = [AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        self._take_network()
        for saver in self._savers():
            remove_leftovers(Path(saver.dirpath or self.trainer.default_root_dir))
        self._require_last("leave it out to start afresh")

    def before_validate(self) -> None:
        """Refuse to evaluate untrained weights by accident."""
        settings = self.config_init[self.subcommand]
        if isinstance(self.model, ComparisonModule):
            if settings["sampling"].denoiser is None:
                raise ValueError("set sampling.denoiser: ComparisonModule has no network to draw samples with")
        elif settings["ckpt_path"] is None:
            raise ValueError(
                f"{self.subcommand} needs weights: give --ckpt_path last, a checkpoint file, or a network's folder; "
                f"--ckpt_path {_UNTRAINED} takes randomly initialised weights"
            )
        self._take_network()
        self._require_last("give a checkpoint file")
        self._wants_figures = bool(settings.get("verbose"))
        if self._wants_figures:
            # Lightning's table would repeat every figure of every arm, one per row, below the table of the arms.
            settings["verbose"] = False

    before_test = before_predict = before_validate

    def after_validate(self) -> None:
        """End with an error if an arm failed, now that the others are written; a training is worth more than an arm."""
        sampling = self.config_init[self.subcommand]["sampling"]
        if self._wants_figures and self.trainer.is_global_zero:
            print(_own_figures(self.trainer, sampling))
        sampling.require_all_drawn(self.trainer)

    after_test = after_validate

    def _take_network(self) -> None:
        """Begin with the weights of the saved network that ``--ckpt_path`` names, or with random ones as it says."""
        settings = self.config_init[self.subcommand]
        source = settings["ckpt_path"]
        if source == _UNTRAINED:
            settings["ckpt_path"] = None
        elif source is not None and isinstance(self.model, NetworkModule) and network_folder(source) is not None:
            self.model.load_weights(source)
            settings["ckpt_path"] = None

    def _require_last(self, remedy: str) -> None:
        """Check that ``--ckpt_path last`` finds a checkpoint; without one, Lightning takes the untrained weights."""
        if self.config_init[self.subcommand]["ckpt_path"] != "last":
            return
        if not all(isinstance(logger, RunLogger) for logger in self.trainer.loggers):
            return  # another logger may keep the checkpoints elsewhere
        default = Path(self.trainer.default_root_dir) / "checkpoints"
        folders = [Path(saver.dirpath or default) for saver in self._savers()]
        if not any(next(folder.glob("last*.ckpt"), None) for folder in folders):
            where = ", ".join(map(str, folders))
            raise FileNotFoundError(f"--ckpt_path last: {where} has no last.ckpt; {remedy}")

    def _savers(self) -> list[ModelCheckpoint]:
        return [saver for saver in self.trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]

    def _parse_ckpt_path(self) -> None:
        """Keep the configuration: Lightning would let the checkpoint's settings overrule the command line."""


def _has_table(data: Any) -> bool:
    source = None if data is None else locate(data.class_path)
    return isinstance(source, type) and issubclass(source, TableDataModule)


def _own_figures(trainer: Trainer, sampling: GuidedSampling) -> str:
    """The figures of the network under evaluation in a few lines, without those of the arms."""
    arms = tuple(f"{name}/" for name in sampling.results)
    figures = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith(arms)}
    return textwrap.fill(", ".join(f"{name}={float(value):.4g}" for name, value in figures.items()), 110)


def _check(settings: Any) -> None:
    """Refuse settings on which Lightning, or the sampling after hours of training, fails without naming them."""
    trainer, sampling = settings["trainer"], settings["sampling"]
    trainer["default_root_dir"] = str(run_folder(trainer["default_root_dir"]))
    require_possible_trainer(trainer)
    require_workers(settings.get("data"))
    if isinstance(sampling.strength, int | float):
        require_strength("sampling.strength", sampling.strength)


def _callbacks(trainer: Any, sampling: GuidedSampling) -> list[Callback]:
    """Return the user's callbacks between ours; the sampling comes first, to see EMA weights while they are in use."""
    own = trainer["callbacks"] or []
    own = own if isinstance(own, list) else [own]
    callbacks = [RunLoggerSync(), ExactResume(), MonitorCheck(), sampling, *own]
    # A trial leaves no trace; Lightning's own rule spares only its own checkpoint callback.
    trial = trainer["fast_dev_run"] or trainer["barebones"] or trainer["enable_checkpointing"] is False
    if not trial and not any(isinstance(callback, ModelCheckpoint) for callback in own):
        folder = Path(trainer["default_root_dir"]) / "checkpoints"
        callbacks.append(ModelCheckpoint(dirpath=folder, save_last=True, enable_version_counter=False))
    if not trial:
        callbacks.append(SaveAndStop())
    if not trainer["barebones"]:
        callbacks += progress_bars(trainer)
    return [*callbacks, PretrainedExport()]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Expected errors end in one line and exit code 1, mistakes in the arguments in code 2, SIGTERM and Ctrl-C in a
    checkpoint, the command that goes on, and codes 143 and 130.

    Args:
        args: Arguments; None takes those of the process.
    """
    with interruption.installed():
        try:
            _run(args)
            if interruption.signum is None:
                return
            print_line("finished before it could be stopped")
        except Interrupted:
            print_line(interruption.message())
        except Exception as error:
            expected = _expected(error)
            if expected is None or wants_traceback():
                raise
            text = f"{one_line(str(expected))} (set {TRACEBACK_VARIABLE}=1 for the traceback)"
            # Every process finds the other errors, which lie in settings, files and data, by itself.
            alone = isinstance(expected, FloatingPointError | MemoryError) and not isinstance(error, FailedArmError)
            print_error(text, only_here=alone)
            sys.exit(1)
        sys.exit(128 + (interruption.signum or 0))


def _worth_showing(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()


def _run(args: Sequence[str] | None) -> None:
    # Lightning prints both in every run, and the user can act on neither.
    rank_zero_module.log.addFilter(_worth_showing)
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    for argument in sys.argv[1:] if args is None else args:
        require_distinct_keys(argument)
    TagCLI(
        datamodule_class=None,
        parser_class=OneLineParser,
        args=args,
        save_config_callback=SaveCheckedConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        # Modules build their own; Lightning's would replace the optimizer and drop the scheduler.
        auto_configure_optimizers=False,
    )


def _expected(error: Exception) -> Exception | None:
    """Return the error that one line tells, or None if only the traceback tells what happened."""
    disk = disk_error(error)
    if disk is not None and is_full(disk):
        return full_disk(disk, interruption.folder)
    if (memory := memory_error(error)) is not None:
        return memory
    # Lightning has no exception class for a missing metric.
    absent = isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric")
    # Around the error of a constructor jsonargparse lists all types that it tried.
    while isinstance(error.__cause__, Exception) and raised_by(error, "jsonargparse"):
        error = error.__cause__
    return error if absent or isinstance(error, _EXPECTED_ERRORS) else None
