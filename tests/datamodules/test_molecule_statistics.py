"""Statistics in place of molecules: the same targets, novelty and reference as from the data set itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qm9_layouts import module, molecules, write_sdf
from safetensors import safe_open
from tiny_runs import seeded
from torch import Tensor

from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.datamodules import MoleculeDataModule, MoleculeStatisticsDataModule, SmallMoleculesDataModule
from tag_lightning.datamodules.molecule_statistics import HashedSmiles, MoleculeStatistics
from tag_lightning.evaluation import MoleculeTask
from tag_lightning.metrics import FCD, SampleMetric
from tag_lightning.networks import EGNNPropertyPredictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def full() -> SmallMoleculesDataModule:
    return SmallMoleculesDataModule(max_heavy_atoms=4, cache=None, half="second")


@pytest.fixture(scope="module")
def brief(full: SmallMoleculesDataModule, tmp_path_factory: pytest.TempPathFactory) -> MoleculeStatisticsDataModule:
    return written(full, tmp_path_factory.mktemp("statistics") / "small.safetensors")


def written(data: MoleculeDataModule, path: Path, task: MoleculeTask | None = None) -> MoleculeStatisticsDataModule:
    """The statistics of the data with what the metrics of a task found in them."""
    metrics = () if task is None else task.metrics
    MoleculeStatistics.of(data, {type(metric).__name__: metric.reference_state() for metric in metrics}).save(path)
    return MoleculeStatisticsDataModule(str(path))


def task_of(
    data: MoleculeDataModule | MoleculeStatisticsDataModule, names: Sequence[str] = ("alpha", "mu"), **settings: Any
) -> MoleculeTask:
    networks = [seeded(lambda: EGNNPropertyPredictor(tuple(names), width=8, num_layers=1), seed) for seed in (0, 1)]
    return MoleculeTask(*networks, **{"error_details": True} | settings).for_data(data).for_samples(60, seed=3)


def assert_equal_targets(one: MoleculeTask, other: MoleculeTask) -> None:
    samples = range(60)
    assert one.sample_shape == other.sample_shape
    assert torch.equal(one.sizes(samples), other.sizes(samples))
    assert torch.equal(one.targets(samples), other.targets(samples))
    for name, values in one.attributes(samples, CPU).items():
        torch.testing.assert_close(values, other.attributes(samples, CPU)[name], equal_nan=True, rtol=0, atol=0)


def test_samples_are_asked_for_the_same(full: MoleculeDataModule, brief: MoleculeStatisticsDataModule) -> None:
    assert brief.encoding == full.encoding
    assert brief.network_arguments == full.network_arguments
    assert_equal_targets(task_of(brief), task_of(full))


def test_labels_that_are_missing_are_missing_there_too(tmp_path: Path) -> None:
    root = write_sdf(tmp_path, molecules(60))
    lines = (root / "gdb9.sdf.csv").read_text().splitlines()
    column = lines[0].split(",").index("gap")
    rows = [line.split(",") for line in lines[1:]]
    kept = [[*row[:column], "" if k % 3 else row[column], *row[column + 1 :]] for k, row in enumerate(rows)]
    (root / "gdb9.sdf.csv").write_text("\n".join([lines[0], *map(",".join, kept)]) + "\n")
    np.savez(tmp_path / "test.npz", index=np.arange(1, 178, 15))
    settings = {"half": "second", "unlabelled": True, "test_molecules": str(tmp_path / "test.npz")}
    data = module(root, properties=["alpha", "cv", "gap"], **settings)
    brief = written(data, tmp_path / "qm9.safetensors")
    assert brief.table("train").attributes["gap"].isnan().any()  # type: ignore[attr-defined]
    assert brief.encoding.feature_scale == 8
    assert_equal_targets(task_of(brief, ("gap", "alpha")), task_of(data, ("gap", "alpha")))


def padded_samples(data: MoleculeDataModule, task: MoleculeTask) -> Tensor:
    """Sixty molecules of all splits, some of them several times."""
    splits = (data.table(split) for split in ("train", "val", "test"))
    batches = [table[[k % len(table) for k in range(20)]] for table in splits]  # type: ignore[index,arg-type]
    return torch.cat([task.pad(batch.x) for batch in batches])


def test_samples_are_judged_the_same(full: MoleculeDataModule, tmp_path: Path) -> None:
    tasks = [task_of(full)]
    tasks[0].prepare([], CPU)
    tasks.append(task_of(written(full, tmp_path / "judged.safetensors", tasks[0])))
    x = padded_samples(full, tasks[0])
    sizes = (x[..., 3:] > 0).any(-1).sum(1)
    figures = []
    for task in tasks:
        # The samples have the sizes of these molecules, not of those asked for.
        task.sizes = lambda indices: sizes[list(indices)]  # type: ignore[method-assign]
        task.prepare([], CPU)
        with torch.no_grad():
            rows = task.rows(x, range(60))
        figures.append(task.summary({name: columns.double() for name, columns in rows.items()}))
    assert figures[0] == figures[1]
    assert 0.2 < figures[0]["novelty"] < 0.95
    assert tasks[0].reference == tasks[1].reference
    assert {"mae_alpha", "median_alpha", "stable_mae_alpha", "validity"} <= tasks[0].reference.keys()


def test_the_chemnet_distance_is_the_same(full: MoleculeDataModule, tmp_path: Path) -> None:
    pytest.importorskip("fcd_torch")
    tasks = [MoleculeTask(metrics=[FCD()]).for_data(full).for_samples(60)]
    tasks[0].prepare([], CPU)
    brief = written(full, tmp_path / "with.safetensors", tasks[0])
    tasks.append(MoleculeTask(metrics=[FCD()]).for_data(brief).for_samples(60))
    tasks[1].prepare([], CPU)
    rows = {"chemnet": torch.randn(60, 512, generator=torch.Generator().manual_seed(0)).double()}
    figures = [task.metrics[-1].summary(rows)["fcd"] for task in tasks]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert tasks[0].reference["fcd"] == tasks[1].reference["fcd"] > 0
    few = MoleculeTask(metrics=[FCD(num_reference=5)]).for_data(brief).for_samples(60)
    with pytest.raises(ValueError, match="FCD is asked for 5 real molecules, but the data keep the features of"):
        few.prepare([], CPU)


def test_the_calibration_of_xtb_is_the_same(full: MoleculeDataModule, tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    tasks = [task_of(full, physics=True)]
    physics = tasks[0].metrics[-1]
    labels = torch.linspace(3, 60, 20, dtype=torch.float64)
    physics.calibrate(torch.stack((2 * labels + 1, labels, labels), 1), labels[:, None].expand(-1, 2))  # type: ignore[attr-defined]
    physics.reference = {"xtb_mae_alpha": 0.5, "xtb_median_alpha": 0.4, "xtb_converged": 1.0}
    tasks[0].metrics = [metric for metric in tasks[0].metrics if metric is physics]
    brief = written(full, tmp_path / "physics.safetensors", tasks[0])
    for details, shown in ((True, physics.reference), (False, {"xtb_mae_alpha": 0.5, "xtb_converged": 1.0})):
        recalled = task_of(brief, physics=True, error_details=details).metrics[-1]
        recalled.load_reference_state(brief.reference_states["PhysicsError"])
        assert recalled.lines == physics.lines  # type: ignore[attr-defined]
        assert recalled.reference == shown
    with pytest.raises(ValueError, match="keep no calibration of xTB's alpha; set physics to false"):
        recalled.load_reference_state({"reference": {}, "lines": {}})


def test_errors_of_another_judge_are_not_shown(full: MoleculeDataModule, tmp_path: Path) -> None:
    task = task_of(full)
    task.prepare([], CPU)
    other = task_of(written(full, tmp_path / "judged.safetensors", task))
    with torch.no_grad():
        next(other.judge.parameters()).add_(0.1)
    with pytest.warns(UserWarning, match="keep the errors of another judge"):
        other.prepare([], CPU)
    assert not any("mae" in name for name in other.reference)
    assert other.reference["validity"] == task.reference["validity"]


class OwnMetric(SampleMetric):
    columns = {"own": 1}  # noqa: RUF012

    def rows(self, x: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"own": x.flatten(1)[:, :1]}

    def summary(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return {"own": float(rows["own"].mean())}


class OfRealData(OwnMetric):
    def prepare(self, device: torch.device) -> None:
        raise AssertionError("the real data are missing")


def test_a_metric_that_the_file_does_not_know(full: MoleculeDataModule, tmp_path: Path) -> None:
    task = MoleculeTask().for_data(full).for_samples(60)
    task.prepare([], CPU)
    brief = written(full, tmp_path / "known.safetensors", task)
    MoleculeTask(metrics=[OwnMetric()]).for_data(brief).for_samples(60).prepare([], CPU)
    with pytest.raises(ValueError, match="OfRealData compares with real data, which MoleculeStatisticsDataModule does"):
        MoleculeTask(metrics=[OfRealData()]).for_data(brief).for_samples(60).prepare([], CPU)


def test_the_file_holds_no_molecule(full: MoleculeDataModule, tmp_path: Path) -> None:
    task = task_of(full)
    task.prepare([], CPU)
    written(full, tmp_path / "judged.safetensors", task)
    with safe_open(tmp_path / "judged.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(tensors) == {"sizes", "known", *(f"properties.{name}" for name in full.table("train").attributes)}  # type: ignore[attr-defined]
    assert {values.ndim for values in tensors.values()} == {1}


def test_a_hash_stands_for_its_smiles() -> None:
    known = HashedSmiles.of(["CCO", "C", "CC"])
    assert [smiles in known for smiles in ("C", "CC", "CCO", "CCC", "")] == [True, True, True, False, False]
    assert len(known) == 3
    assert known.hashes.tolist() == sorted(known.hashes.tolist())
    first = int.from_bytes(hashlib.sha256(b"C").digest()[:8], "big", signed=True)
    assert first in known.hashes.tolist()


def test_a_file_is_the_same_bytes_every_time(full: MoleculeDataModule, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        MoleculeStatistics.of(full, {}).save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_mode & 0o777 == 0o644  # others may read it too


def test_networks_are_not_trained_on_statistics(brief: MoleculeStatisticsDataModule) -> None:
    for iterate in (brief.train_dataloader, lambda: next(iter(brief.reference_dataloader()))):
        with pytest.raises(
            ValueError, match=r"holds statistics of the training data, and none of their samples; to compare"
        ):
            iterate()


def test_files_that_are_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing does not exist; set data.init_args.file"):
        MoleculeStatisticsDataModule("nothing")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"statistics")
    with pytest.raises(ValueError, match=r"damaged.safetensors holds no statistics of molecules, or is damaged"):
        MoleculeStatisticsDataModule(str(damaged))


def test_a_charge_column_is_kept(tmp_path: Path) -> None:
    data = SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, charge_scale=10.0)
    assert written(data, tmp_path / "charged.safetensors").encoding == MoleculeEncoding((1, 6, 7, 8, 9), 4.0, 10.0)
