"""The shipped networks of QM9 and the statistics beside them match their documentation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import tag_lightning
from tag_lightning.chemistry import MoleculeEncoding
from tag_lightning.chemistry.units import HARTREE_IN_EV
from tag_lightning.cli import main
from tag_lightning.datamodules import MoleculeStatisticsDataModule
from tag_lightning.diffusion import DDIM, Denoiser, PointCloudSpace, Sampler
from tag_lightning.metrics import molecule_quality
from tag_lightning.networks import EGNNNoiseLevel, EGNNPropertyPredictor, EGNNTimePredictor
from tag_lightning.pretrained import load_pretrained

SHIPPED = Path(tag_lightning.__file__).parent / "pretrained" / "qm9_small"
EDM = Path(__file__).parents[2].parent / "shared" / "data" / "qm9_test_edm.npz"


@pytest.fixture(scope="module")
def data() -> MoleculeStatisticsDataModule:
    return MoleculeStatisticsDataModule("qm9_small/statistics")


def sample(data: MoleculeStatisticsDataModule, count: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Atomic numbers and positions of molecules that the denoiser draws."""
    network, schedule, *_ = load_pretrained("qm9_small/denoiser")
    assert schedule is not None
    table = data.train_table()
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:count]  # type: ignore[arg-type]
    space = PointCloudSpace(table.sizes[order].tolist(), data.encoding.num_features, range(count))  # type: ignore[attr-defined]
    x = Sampler(Denoiser(network, schedule, "epsilon"), DDIM(), steps).sample(space, 0)
    return data.encoding.decode(x, space.mask)


def test_the_statistics_are_those_of_half_of_qm9_and_hold_no_molecule(data: MoleculeStatisticsDataModule) -> None:
    table = data.train_table()
    assert 49_000 < len(table) < 59_000  # type: ignore[arg-type]
    assert data.sample_shape[0] == 29
    assert 17.5 < float(table.sizes.float().mean()) < 18.5  # type: ignore[attr-defined]
    with safe_open(SHIPPED / "statistics.safetensors", "pt") as file:
        assert not any("position" in name or "smiles" in name for name in file.keys())  # noqa: SIM118
    assert {"PropertyError", "MoleculeQuality", "FCD"} <= data.reference_states.keys()


def test_the_denoiser_draws_molecules(data: MoleculeStatisticsDataModule) -> None:
    """Short runs of few molecules; the documentation has the figures of 100 steps."""
    figures = molecule_quality(*sample(data, 16, 40))
    assert figures["atom_stability"] > 0.8
    assert figures["connected"] > 0.7
    assert figures["nan"] == 0


def test_the_demo_needs_no_file_of_qm9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    brief = ["--sampling.num_samples=4", "--sampling.num_steps=4", "--sampling.task.init_args.physics=false"]
    main(["validate", "--config=qm9_small/comparison", "--trainer.accelerator=cpu", *brief])
    assert "cannot be kept" not in capfd.readouterr().out  # an interrupted demo goes on where it stopped
    results = json.loads((tmp_path / "runs/qm9_small/comparison/results.json").read_text())
    arms = ["unguided", "alpha", "alpha+tag", "gap", "gap+tag", "alpha gap", "alpha gap+tag"]
    assert list(results["arms"]) == arms
    assert results["reference"]["atom_stability"] > 0.98
    assert results["reference"]["mae_alpha"] < 0.6
    assert all(np.isfinite(results["arms"][arm]["time_gap"]) for arm in arms)


@pytest.mark.skipif(not EDM.is_file(), reason="needs the data beside the repository")
@pytest.mark.parametrize("name", ["guide", "judge"])
def test_the_predictors_err_as_documented_on_molecules_held_out(name: str, data: MoleculeStatisticsDataModule) -> None:
    network = load_pretrained(f"qm9_small/{name}").network
    assert isinstance(network, EGNNPropertyPredictor)
    x, mask, labels = held_out(data.encoding)
    with torch.no_grad():
        predicted = torch.cat([network(a, b) for a, b in zip(x.split(100), mask.split(100), strict=True)])
    errors = (predicted - torch.stack([labels[property] for property in network.properties], 1)).abs().mean(0)
    # bohr^3, cal/(mol K), eV
    most = {"alpha": 0.5, "cv": 0.2, "gap": 0.2}
    for property, error in zip(network.properties, errors.tolist(), strict=True):
        assert error < most[property]


@pytest.mark.skipif(not EDM.is_file(), reason="needs the data beside the repository")
@pytest.mark.parametrize("name", ["time_predictor", "time_gap_predictor"])
def test_the_time_predictors_tell_the_time(name: str, data: MoleculeStatisticsDataModule) -> None:
    network, schedule, *_ = load_pretrained(f"qm9_small/{name}")
    assert isinstance(network, EGNNTimePredictor)
    assert schedule is not None
    assert bool(network.typical_nll.isfinite().all())
    x, mask, _ = held_out(data.encoding)
    space = PointCloudSpace(mask.sum(1).tolist(), data.encoding.num_features, range(len(x)))
    # Whoever guesses is off by 250 at least. Positions alone say less than elements, and little about late noise.
    for timestep, most in ((20, 6), (100, 35), (500, 170), (900, 150)):
        noise = space.project(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
        with torch.no_grad():
            logits = network(schedule.add_noise(space.project(x), noise, timestep), mask)
        assert float((logits.argmax(1) - timestep).abs().float().mean()) < most


@pytest.mark.skipif(not EDM.is_file(), reason="needs the data beside the repository")
@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.3])
def test_the_noise_level_is_right_on_and_off_the_marginals(ratio: float, data: MoleculeStatisticsDataModule) -> None:
    network, schedule, *_ = load_pretrained("qm9_small/noise_level")
    assert isinstance(network, EGNNNoiseLevel)
    assert schedule is not None
    x, mask, _ = held_out(data.encoding)
    space = PointCloudSpace(mask.sum(1).tolist(), data.encoding.num_features, range(len(x)))
    for timestep in (59, 279, 759):
        noise = space.project(torch.randn(x.shape, generator=torch.Generator().manual_seed(timestep)))
        noisy = schedule.add_noise(space.project(x), ratio * noise, timestep)
        with torch.no_grad():
            error = network(noisy, torch.full((len(x),), timestep), mask) - math.log(ratio)
        assert abs(float(error.mean())) < 0.06
        assert float(error.std()) < 0.17


def held_out(encoding: MoleculeEncoding) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Samples, masks and labels of 400 of EDM's test molecules without fluorine."""
    with np.load(EDM) as edm:
        usable = np.flatnonzero((edm["charges"] != 9).all(1))
        rows = np.random.default_rng(1).permutation(usable)[:400]
        numbers, positions = torch.from_numpy(edm["charges"][rows]), torch.from_numpy(edm["positions"][rows])
        labels = {"alpha": edm["alpha"][rows], "cv": edm["Cv"][rows], "gap": edm["gap"][rows] * HARTREE_IN_EV}
    largest = int((numbers > 0).sum(1).max())
    x = encoding.encode(numbers.to(torch.uint8), positions)[:, :largest]
    return x, numbers[:, :largest] > 0, {name: torch.from_numpy(values) for name, values in labels.items()}
