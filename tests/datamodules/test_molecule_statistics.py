"""Statistics in place of molecules: the same targets, novelty and reference as from the data set itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from qm9_layouts import module, molecules, write_sdf
from tiny_runs import seeded
from torch import Tensor

from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.datamodules import MoleculeDataModule, MoleculeStatisticsDataModule, SmallMoleculesDataModule
from tag_lightning.datamodules.molecule_statistics import HashedSmiles, MoleculeStatistics
from tag_lightning.evaluation import MoleculeTask
from tag_lightning.feature_moments import FeatureMoments
from tag_lightning.metrics import FCD
from tag_lightning.networks import EGNNPropertyPredictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def full() -> SmallMoleculesDataModule:
    return SmallMoleculesDataModule(max_heavy_atoms=4, cache=None, half="second")


@pytest.fixture(scope="module")
def brief(full: SmallMoleculesDataModule, tmp_path_factory: pytest.TempPathFactory) -> MoleculeStatisticsDataModule:
    return written(full, tmp_path_factory.mktemp("statistics") / "small.safetensors")


def written(
    data: MoleculeDataModule, path: Path, chemnet: FeatureMoments | None = None
) -> MoleculeStatisticsDataModule:
    MoleculeStatistics.of(data, chemnet).save(path)
    return MoleculeStatisticsDataModule(str(path))


def task_of(
    data: MoleculeDataModule | MoleculeStatisticsDataModule, names: Sequence[str] = ("alpha", "mu")
) -> MoleculeTask:
    networks = [seeded(lambda: EGNNPropertyPredictor(tuple(names), width=8, num_layers=1), seed) for seed in (0, 1)]
    return MoleculeTask(*networks, error_details=True).for_data(data).for_samples(60, seed=3)


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


def test_samples_are_judged_the_same(full: MoleculeDataModule, brief: MoleculeStatisticsDataModule) -> None:
    tasks = [task_of(full), task_of(brief)]
    x = padded_samples(full, tasks[0])
    sizes = (x[..., 3:] > 0).any(-1).sum(1)
    figures = []
    for task in tasks:
        # The samples have the sizes of these molecules, not of those asked for.
        task.sizes = lambda indices: sizes[list(indices)]  # type: ignore[method-assign]
        task.prepare([], CPU)
        figures.append(task.summary({name: rows.double() for name, rows in task.rows(x, range(60)).items()}))
    assert figures[0] == figures[1]
    assert 0.2 < figures[0]["novelty"] < 0.95
    # All test molecules of so small a data set are in the file, in another order.
    assert tasks[0].reference == pytest.approx(tasks[1].reference, rel=1e-5)
    assert {"mae_alpha", "median_alpha", "stable_mae_alpha", "validity"} <= tasks[0].reference.keys()


def test_the_chemnet_distance_is_the_same(full: MoleculeDataModule, tmp_path: Path) -> None:
    pytest.importorskip("fcd_torch")
    tasks = [MoleculeTask(metrics=[FCD()]).for_data(full).for_samples(60)]
    tasks[0].prepare([], CPU)
    moments = tasks[0].metrics[-1].moments  # type: ignore[attr-defined]
    brief = written(full, tmp_path / "with.safetensors", moments)
    tasks.append(MoleculeTask(metrics=[FCD()]).for_data(brief).for_samples(60))
    tasks[1].prepare([], CPU)
    rows = {"chemnet": torch.randn(60, 512, generator=torch.Generator().manual_seed(0)).double()}
    figures = [task.metrics[-1].summary(rows)["fcd"] for task in tasks]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert tasks[0].reference["fcd"] == tasks[1].reference["fcd"] > 0
    few = MoleculeTask(metrics=[FCD(num_reference=5)]).for_data(brief).for_samples(60)
    with pytest.raises(ValueError, match="FCD is asked for 5 real molecules, but the data keep the features of"):
        few.prepare([], CPU)


def test_a_file_without_chemnet_says_so(brief: MoleculeStatisticsDataModule) -> None:
    with pytest.raises(ValueError, match=r"has no features of ChemNet; remove the metric FCD"):
        _ = brief.chemnet


def test_a_hash_stands_for_its_smiles() -> None:
    known = HashedSmiles.of(["CCO", "C", "CC"])
    assert [smiles in known for smiles in ("C", "CC", "CCO", "CCC", "")] == [True, True, True, False, False]
    assert len(known) == 3
    assert known.hashes.tolist() == sorted(known.hashes.tolist())
    first = int.from_bytes(hashlib.sha256(b"C").digest()[:8], "big", signed=True)
    assert first in known.hashes.tolist()


def test_real_molecules_are_drawn_from_the_whole_split(full: MoleculeDataModule) -> None:
    drawn = MoleculeStatistics.of(full, num_val=4, num_test=5).molecules
    assert [len(drawn["val"]), len(drawn["test"])] == [4, 5]
    order = torch.randperm(len(full.table("test")), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    expected = full.table("test").molecules.select(order[:5])  # type: ignore[attr-defined]
    assert torch.equal(drawn["test"].positions, expected.positions)


def test_a_file_is_the_same_bytes_every_time(full: MoleculeDataModule, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        MoleculeStatistics.of(full).save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_networks_are_not_trained_on_statistics(brief: MoleculeStatisticsDataModule) -> None:
    for iterate in (brief.train_dataloader, lambda: next(iter(brief.reference_dataloader()))):
        with pytest.raises(ValueError, match=r"sizes and properties of the training molecules alone; to train"):
            iterate()
    assert len(next(iter(brief.val_dataloader())).x) > 0


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
