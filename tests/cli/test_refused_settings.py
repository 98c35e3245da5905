"""Settings that failed late, silently or with a traceback end in one line before the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from tiny_runs import TinyNetworks, predictor_arguments

from tag_lightning.callbacks import GuidedSampling
from tag_lightning.cli import main
from tag_lightning.evaluation import Arm
from tag_lightning.setting_checks import require_possible_trainer, require_seed, run_folder

STOPPING = "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: %s}}]"
SAVING = "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {monitor: val/los}}]"


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("devices", "-1", "trainer.devices must be the number of processes, at least 1, .* got -1"),
        ("devices", [-1], r"trainer.devices must be .* got \[-1\]"),
        ("devices", 0, "trainer.devices must be .* got 0"),
        ("accumulate_grad_batches", 0, "trainer.accumulate_grad_batches must be at least 1, got 0"),
        ("num_nodes", 0, "trainer.num_nodes must be at least 1, got 0"),
        ("val_check_interval", 0, "trainer.val_check_interval must be above 0, got 0"),
        ("gradient_clip_val", -1.0, "trainer.gradient_clip_val must be at least 0, got -1"),
        ("precision", "64-true", "trainer.precision must be 32-true, bf16-mixed or 16-mixed, got 64-true"),
        ("precision", "bf16-true", "trainer.precision must be .* got bf16-true"),
        (
            "precision",
            "16-mixed",
            "trainer.precision 16-mixed is impractically slow on a CPU; choose 32-true or bf16-mixed",
        ),
        ("precision", "16", "trainer.precision 16 is impractically slow on a CPU"),
    ],
)
def test_impossible_trainers(name: str, value: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        require_possible_trainer({"accelerator": "cpu", name: value})


def test_possible_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for settings in ({}, {"devices": "2", "precision": "bf16-mixed"}, {"devices": "auto", "precision": "32-true"}):
        assert require_possible_trainer({"accelerator": "cpu", **settings}) is None
    assert require_possible_trainer({"accelerator": "gpu", "devices": -1, "precision": "16-mixed"}) is None


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_an_accelerator_that_is_not_there(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    message = f"trainer.accelerator is {accelerator}, but PyTorch finds no such device here; set it to cpu or auto"
    with pytest.raises(ValueError, match=message):
        require_possible_trainer({"accelerator": accelerator})


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_impossible_seeds(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--config=digits/guide", f"--seed_everything={seed}", f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    assert f"error: seed_everything must lie in 0 .. 4294967295, got {seed}; true" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_seeds_up_to_the_bounds_are_those_that_lightning_takes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # put back afterwards
    for setting in (seed, True, False, None):
        require_seed(setting)
    with isolate_rng():
        assert seed_everything(seed) == seed


def test_run_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder("~/runs") == tmp_path / "runs"
    assert run_folder("runs/~") == Path("runs/~")
    with pytest.raises(ValueError, match="must be a local folder, got s3://bucket/runs; choose one, or mount"):
        run_folder("s3://bucket/runs")
    with pytest.raises(ValueError, match="home folder that does not exist"):
        run_folder("~nobody-of-that-name/runs")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("--trainer.devices=-1", "trainer.devices must be the number of processes"),
        ("--trainer.precision=bf16-true", "trainer.precision must be 32-true"),
        ("--data.init_args.num_workers=-1", "error: num_workers must be at least 0, got -1; 0 loads"),
        (STOPPING % "val/los", "EarlyStopping(monitor=...) is val/los, which nothing logs (did you mean val/loss?)"),
        (SAVING, "ModelCheckpoint(monitor=...) is val/los, which nothing logs"),
        ("--sampling.arms={few: {}, few: {num_steps: 3}}", "--sampling.arms: few is given twice, and only the last"),
        ("--sampling.extra_arms={dps: {}}", "sampling.extra_arms has dps, which sampling.arms has too"),
    ],
)
def test_one_line_before_the_training(
    setting: str, named: str, tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(predictor_arguments("fit", tmp_path / "run", tiny, setting))
    assert stop.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_home_folder_and_an_arm_named_by_a_number(
    tiny: TinyNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    arms = tmp_path / "arms.yaml"
    arms.write_text("sampling:\n  arms:\n    unguided: {}\n    3: {num_steps: 3}\n")
    stopping = STOPPING % "unguided/fid"
    main([*predictor_arguments("fit", Path("~/runs"), tiny), f"--config={arms}", stopping])
    assert (tmp_path / "runs" / "results.json").exists()
    assert '"3"' in (tmp_path / "runs" / "results.json").read_text()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("arms", [{3: Arm(), "3": Arm()}, {True: Arm()}, {None: Arm()}, {1.5: Arm()}])
def test_names_of_arms_that_are_not_text(arms: dict) -> None:
    with pytest.raises(ValueError, match=r"sampling\.arms has (an arm named .* quotes|two arms of the same name)"):
        GuidedSampling(arms=arms)


def test_an_arm_given_twice_in_a_file(tiny: TinyNetworks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "twice.yaml"
    config.write_text("sampling:\n  arms:\n    few: {num_steps: 2}\n    more: {}\n    few: {num_steps: 3}\n")
    with pytest.raises(SystemExit) as stop:
        main(predictor_arguments("fit", tmp_path / "run", tiny, f"--config={config}"))
    assert stop.value.code == 2
    assert f"{config}, line 5: few is given twice, and only the last would count" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["--trainer.max_steps=0", "--trainer.limit_train_batches=0"])
def test_where_nothing_is_trained_the_network_stays(limit: str, tiny: TinyNetworks, tmp_path: Path) -> None:
    main(predictor_arguments("fit", tmp_path, tiny, "--sampling.arms={unguided: {}}"))
    before = {path: path.read_bytes() for path in (tmp_path / "pretrained").iterdir()}
    assert before
    with pytest.warns(UserWarning, match="fit trained nothing, so .*pretrained stays as it is"):
        main(predictor_arguments("fit", tmp_path, tiny, limit))
    assert {path: path.read_bytes() for path in (tmp_path / "pretrained").iterdir()} == before


def test_a_fit_that_has_ended_is_not_trained_again(tiny: TinyNetworks, tmp_path: Path) -> None:
    arguments = predictor_arguments("fit", tmp_path, tiny, "--trainer.max_steps=2", "--sampling.arms={unguided: {}}")
    main(arguments)
    with pytest.warns(UserWarning, match="and 2 steps were taken before"):
        main([*arguments, "--ckpt_path=last"])
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
