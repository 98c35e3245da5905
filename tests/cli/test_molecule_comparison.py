"""The comparison on QM9 without its files, through the command line: the same table as with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_qm9 import write_qm9
from tiny_runs import TASK, seeded

from benchmarks.data_statistics import main as write_statistics
from tag_lightning.cli import main
from tag_lightning.diffusion import PolynomialSchedule
from tag_lightning.networks import EGNNDenoiser, EGNNPropertyPredictor, EGNNTimePredictor
from tag_lightning.pretrained import save_pretrained

TIMESTEPS = 20
PROPERTIES = ("alpha", "cv", "gap")
NO_PHYSICS = f"{TASK}.physics=false"  # hundreds of molecules would take minutes
ARMS = ["unguided", "alpha", "alpha+tag", "gap", "gap+tag", "alpha gap", "alpha gap+tag"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks on the five elements of QM9."""
    root = tmp_path_factory.mktemp("networks")
    schedule = PolynomialSchedule(TIMESTEPS)
    denoiser = seeded(lambda: EGNNDenoiser(5, TIMESTEPS, width=8, num_blocks=1, longest=1.0), 0)
    save_pretrained(root / "denoiser", denoiser, schedule)
    for seed, name in ((1, "time_gap_predictor"), (2, "time_predictor")):
        predictor = seeded(lambda: EGNNTimePredictor(5, TIMESTEPS, width=8, num_layers=1, num_bases=16), seed)
        predictor.typical_nll.fill_(1.0)  # type: ignore[operator]
        save_pretrained(root / name, predictor, schedule)
    for seed, name in ((3, "guide"), (4, "judge")):
        save_pretrained(
            root / name, seeded(lambda: EGNNPropertyPredictor(PROPERTIES, width=8, num_layers=1), seed), None
        )
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of ``QM9DataModule`` for a hundred molecules, of which twelve are held out."""
    root = write_qm9(tmp_path_factory.mktemp("qm9"), 100)
    np.savez(root / "test.npz", index=np.arange(3, 99, 8))
    return [f"root={root}", f"test_molecules={root / 'test.npz'}", f"cache={root / 'cache'}"]


def from_data(networks: Path) -> list[str]:
    """Arguments of the comparison at the validation of the time predictor."""
    network = "--model.init_args.network.init_args"
    return [
        "--config=qm9_small/time_predictor",
        f"--ckpt_path={networks / 'time_predictor'}",
        f"--model.init_args.schedule.init_args.num_timesteps={TIMESTEPS}",
        f"{network}.num_timesteps={TIMESTEPS}",
        f"{network}.width=8",
        f"{network}.num_layers=1",
        f"{network}.per_atom=false",
        f"{network}.decided_elements=false",
    ]


def from_statistics(networks: Path, file: Path) -> list[str]:
    return [
        "--config=qm9_small/comparison",
        "--sampling.noise_level=null",
        f"--sampling.predictor={networks / 'time_predictor'}",
        f"--data.init_args.file={file}",
    ]


def results_of(run: Path, networks: Path, *more: str) -> dict:
    roles = {"sampling": ("denoiser", "time_gap_predictor"), "sampling.task.init_args": ("guide", "judge")}
    main(
        [
            "validate",
            *more,
            *(f"--{at}.{role}={networks / role}" for at, names in roles.items() for role in names),
            f"--trainer.default_root_dir={run}",
            "--trainer.accelerator=cpu",
            "--sampling.num_samples=4",
            "--sampling.num_steps=4",
        ]
    )
    return json.loads((run / "results.json").read_text())


def test_the_table_is_that_of_the_data_themselves(
    networks: Path, data: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcd_torch")
    file = tmp_path / "statistics.safetensors"
    judge = f"--judge={networks / 'judge'}"
    write_statistics(["qm9_small/time_predictor", str(file), judge, "--no-physics", "--set", *data])
    assert "training samples, PropertyError, MoleculeQuality, FCD: " in capfd.readouterr().out
    brief = results_of(tmp_path / "brief", networks, *from_statistics(networks, file), NO_PHYSICS)
    details = [f"{TASK}.error_details=true", f"{TASK}.metrics=[FCD]"]
    own = [f"--data.init_args.{change}" for change in data]
    full = results_of(tmp_path / "full", networks, *from_data(networks), *details, *own)
    assert list(brief["arms"]) == list(full["arms"]) == ARMS
    for arm, figures in full["arms"].items():
        assert_same(brief["arms"][arm], figures)
    assert_same(brief["reference"], full["reference"])
    expected = {"fcd", "novelty", "uniqueness", "validity", "molecule_stability", "mae_cv", "stable_mae_gap"}
    expected |= {"median_gap", "median_alpha", "stable_mae_alpha"}
    assert expected - {"novelty"} <= brief["reference"].keys()
    assert expected - {"fcd"} <= brief["arms"]["alpha+tag"].keys()  # nothing valid comes from untrained networks
    assert brief["reference"]["median_gap"] > 0


def assert_same(some: dict[str, float | None], others: dict[str, float | None]) -> None:
    assert some.keys() == others.keys()
    for name in some.keys() - {"seconds"}:
        assert some[name] == others[name] or some[name] == pytest.approx(others[name], rel=1e-4), name


def test_statistics_are_of_images_or_molecules(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MixtureDataModule, neither images nor molecules; give another one"):
        write_statistics(["toy/time_predictor", str(tmp_path / "x.safetensors"), "--judge=digits/judge"])
