"""Write the statistics of a data set: ``python -m benchmarks.data_statistics CONFIG FILE --judge NETWORK``."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from tag_lightning import datamodules
from tag_lightning.config_files import config_file, merged_with_bases
from tag_lightning.datamodules import Batch, ImageDataModule, MoleculeDataModule
from tag_lightning.datamodules.image_statistics import ImageStatistics
from tag_lightning.datamodules.molecule_statistics import MoleculeStatistics
from tag_lightning.datamodules.statistics_file import ReferenceStates
from tag_lightning.evaluation import ImageTask, MoleculeTask, SamplingTask
from tag_lightning.metrics import FCD, SampleMetric


def data_of(config: str, changes: Sequence[str] = ()) -> ImageDataModule | MoleculeDataModule:
    """The data module of a configuration.

    Args:
        config: A path, or the name of a shipped configuration.
        changes: Arguments of the data module that differ, as ``name=value``.

    Raises:
        ValueError: If its data are neither images nor molecules.
    """
    settings = merged_with_bases(Path(config_file(config))).get("data", {})
    kind: Any = getattr(datamodules, str(settings.get("class_path")), None)
    if not (isinstance(kind, type) and issubclass(kind, ImageDataModule | MoleculeDataModule)):
        raise ValueError(
            f"the data of {config} are {settings.get('class_path')}, neither images nor molecules; give another one"
        )
    changed = {name: yaml.safe_load(value) for name, _, value in (change.partition("=") for change in changes)}
    return kind(**settings.get("init_args", {}) | changed)


def validation_images(config: str, count: int) -> Batch:
    """Validation images of a configuration, evenly spaced.

    Args:
        config: As in ``data_of``.
        count: Number of images; all if there are fewer.

    Raises:
        ValueError: If its data are not images.
    """
    data = data_of(config)
    if not isinstance(data, ImageDataModule):
        raise ValueError(f"the data of {config} are not images; give another one")
    data.prepare_data()
    data.setup("validate")
    table = data.table("val")
    size = len(table)  # type: ignore[arg-type]
    return table[torch.linspace(0, size - 1, min(count, size)).long().tolist()]


def molecule_task(judge: str, physics: bool) -> MoleculeTask:
    """A task with all metrics of molecules; FCD is one of them where its package is installed."""
    further: list[SampleMetric] = [FCD()] if importlib.util.find_spec("fcd_torch") else []
    return MoleculeTask(judge=judge, physics=physics, metrics=further, error_details=True)


def reference_states(data: ImageDataModule | MoleculeDataModule, task: SamplingTask) -> ReferenceStates:
    """The state of each metric of a task by class name, prepared on these data."""
    task = task.for_data(data).for_samples(2)
    task.prepare(data.reference_dataloader(), torch.device("cpu"))
    return {type(metric).__name__: metric.reference_state() for metric in task.metrics}


def main(args: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_statistics", description=__doc__)
    parser.add_argument("config", help="configuration whose data are meant: a path or a shipped one's name")
    parser.add_argument("file", type=Path, help="safetensors file to write")
    parser.add_argument("--judge", required=True, help="judge of the comparison: a shipped network's name or a folder")
    installed = importlib.util.find_spec("tblite") is not None
    physics = "calibrate xTB too, for molecules (default: if tblite is installed)"
    parser.add_argument("--physics", action=argparse.BooleanOptionalAction, default=installed, help=physics)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other arguments of the data")
    chosen = parser.parse_args(args)
    data = data_of(chosen.config, chosen.set)
    data.prepare_data()
    data.setup("validate")
    statistics: ImageStatistics | MoleculeStatistics
    if isinstance(data, MoleculeDataModule):
        statistics = MoleculeStatistics.of(data, reference_states(data, molecule_task(chosen.judge, chosen.physics)))
    else:
        # Inception's weights may not be at hand where the file is used.
        statistics = ImageStatistics.of(data, reference_states(data, ImageTask(judge=chosen.judge, features="judge")))
    statistics.save(chosen.file)
    size = chosen.file.stat().st_size / 1e6
    count = len(data.table("train"))  # type: ignore[arg-type]
    print(f"{count:,} training samples, {', '.join(statistics.reference_states)}: {size:.2g} MB in {chosen.file}")


if __name__ == "__main__":
    main()
