"""Which damage time predictors see: ``python -m benchmarks.planted_damage molecules/time_gap_predictor ...``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tag_lightning.datamodules import QM9DataModule, SmallMoleculesDataModule
from tag_lightning.datamodules.molecules import MoleculeDataModule
from tag_lightning.files import replacing
from tag_lightning.metrics import damage_detection, time_gap
from tag_lightning.metrics.damage_detection import kinds_of_damage
from tag_lightning.modules.base import noised
from tag_lightning.pretrained import load_pretrained

_BATCH = 64


def measured(source: str, data: MoleculeDataModule, count: int, timesteps: Sequence[int]) -> dict[str, float]:
    """The Time-Gap in training timesteps, and the area under the ROC curve of each damage and timestep.

    Args:
        source: A shipped time predictor's name, a folder or a checkpoint.
        data: Its test molecules are damaged.
        count: Number of molecules; fewer if the data have fewer.
        timesteps: Timesteps of the noise.

    Raises:
        ValueError: If the network has no noise schedule, so that it is not a time predictor of this package.
    """
    network, schedule, *_ = load_pretrained(source)
    if schedule is None:
        raise ValueError(f"{source} has no noise schedule: it is not a time predictor; give one's name or folder")
    table = data.table("test")
    order = table.sizes[:count].argsort(stable=True)  # type: ignore[attr-defined]
    batches = [table[rows.tolist()] for rows in order.split(_BATCH)]
    generator = torch.Generator().manual_seed(0)
    gaps = []
    with torch.no_grad():
        for batch in batches:
            x_t, _, drawn = noised(batch.x, schedule, generator, batch.inputs["mask"])
            gaps.append(time_gap(network(x_t, **batch.inputs), drawn))
    figures = {"time_gap": float(torch.cat(gaps).mean())}
    kinds = kinds_of_damage(len(data.encoding.elements))
    for name, areas in damage_detection(network, schedule, batches, timesteps, kinds).items():
        figures |= {f"{name}, t = {timestep}": area for timestep, area in areas.items()}
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Print and, on demand, save the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted_damage", description=__doc__)
    parser.add_argument("predictors", nargs="+", help="shipped names, folders or checkpoints of time predictors")
    parser.add_argument("--qm9", metavar="FOLDER", help="folder of QM9; the small molecules if left out")
    parser.add_argument("--test-molecules", metavar="FILE", help="see QM9DataModule.test_molecules")
    parser.add_argument("--count", type=int, default=512, help="number of molecules")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[5, 30, 100])
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    chosen = parser.parse_args(args)
    data: MoleculeDataModule
    if chosen.qm9 is None:
        data = SmallMoleculesDataModule()
    else:
        data = QM9DataModule(chosen.qm9, properties=(), test_molecules=chosen.test_molecules)
    figures = {name: measured(name, data, chosen.count, chosen.timesteps) for name in chosen.predictors}
    table = Table(title="Time-Gap, and area under the ROC curve of -log p(t | x_t)")
    table.add_column("", no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", overflow="fold")
    for row in next(iter(figures.values())):
        table.add_row(
            row, *(f"{column[row]:.1f}" if row == "time_gap" else f"{column[row]:.2f}" for column in figures.values())
        )
    Console().print(table)
    if chosen.out is not None:
        with replacing(chosen.out) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
