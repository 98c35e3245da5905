"""Statistics in place of images: the same Frechet distance and targets as from the data set itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.data_statistics import main as write_statistics
from tag_lightning.cli import main
from tag_lightning.datamodules import DigitsDataModule, ImageStatisticsDataModule
from tag_lightning.evaluation import ImageTask
from tag_lightning.metrics import KID

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statistics") / "digits.safetensors"
    write_statistics(["digits/judge", str(path), "--judge=digits/judge"])
    return path


def prepared(data: DigitsDataModule | ImageStatisticsDataModule) -> ImageTask:
    task = ImageTask("digits/guide", "digits/judge", features="judge").for_data(data).for_samples(40, seed=1)
    task.prepare(data.reference_dataloader(), CPU)
    return task


def test_samples_are_judged_the_same(file: Path) -> None:
    full, brief = DigitsDataModule(half="second"), ImageStatisticsDataModule(str(file))
    full.prepare_data()
    tasks = [prepared(full), prepared(brief)]
    assert brief.network_arguments == full.network_arguments
    assert tasks[0].sample_shape == tasks[1].sample_shape == brief.example.x.shape[1:]
    assert tasks[0].num_reference == tasks[1].num_reference > 100
    assert torch.equal(tasks[0].targets(range(40)), tasks[1].targets(range(40)))
    x = 2 * torch.rand(40, *full.sample_shape, generator=torch.Generator().manual_seed(0)) - 1
    figures = []
    for task in tasks:
        with torch.no_grad():
            rows = task.rows(x, range(40))
        figures.append(task.summary({name: columns.double() for name, columns in rows.items()}))
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert figures[0]["fid"] > 1


def test_the_file_is_small_and_holds_no_image(file: Path) -> None:
    assert file.stat().st_size < 200_000
    with pytest.raises(ValueError, match="holds statistics of the training data, and none of their samples"):
        next(iter(ImageStatisticsDataModule(str(file)).reference_dataloader()))


def test_a_shipped_file_has_a_name(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag_lightning.datamodules.statistics._SHIPPED", file.parent)
    monkeypatch.chdir(tmp_path)
    named = ImageStatisticsDataModule("digits")
    assert named.digest == ImageStatisticsDataModule(str(file)).digest
    with pytest.raises(FileNotFoundError, match=r"letters does not exist; set data.init_args.file"):
        ImageStatisticsDataModule("letters")


def test_features_of_another_network_are_refused(file: Path) -> None:
    data = ImageStatisticsDataModule(str(file))
    task = ImageTask(judge="digits/guide", features="judge").for_data(data).for_samples(40)
    with pytest.raises(ValueError, match=r"fid compares features of .*, but the data keep moments of those of"):
        task.prepare([], CPU)


def test_metrics_of_all_real_images_are_refused(file: Path) -> None:
    data = ImageStatisticsDataModule(str(file))
    task = ImageTask(judge="digits/judge", features="judge", metrics=[KID("judge")]).for_data(data).for_samples(40)
    with pytest.raises(ValueError, match="KID compares with real data, which ImageStatisticsDataModule does not hold"):
        task.prepare([], CPU)


def test_a_comparison_runs_from_the_file(file: Path, tmp_path: Path) -> None:
    networks = ["--sampling.denoiser=digits/denoiser", "--sampling.arms={unguided: {}}"]
    task = ["--sampling.task=ImageTask", "--sampling.task.judge=digits/judge", "--sampling.task.features=judge"]
    size = ["--sampling.num_samples=2", "--sampling.num_steps=2", f"--trainer.default_root_dir={tmp_path}"]
    data = ["--data=ImageStatisticsDataModule", f"--data.file={file}", "--trainer.accelerator=cpu"]
    main(["validate", "--model=ComparisonModule", *data, *networks, *task, *size])
    assert json.loads((tmp_path / "results.json").read_text())["arms"]["unguided"]["fid"] > 0


def test_networks_are_not_validated_on_statistics(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = ["--data=ImageStatisticsDataModule", f"--data.file={file}", f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(SystemExit):
        main(["validate", "--config=digits/judge", "--ckpt_path=digits/judge", *data])
    assert "to compare saved networks, use --model ComparisonModule" in capfd.readouterr().err
