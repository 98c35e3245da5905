"""Properties of molecules asked to lie in a range: condition, figures, files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import seeded

from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.evaluation import ArmResult, MoleculeTask
from tag_lightning.guidance import Hinge, Range, SquaredError
from tag_lightning.metrics import PhysicsError
from tag_lightning.networks import EGNNPropertyPredictor

CPU = torch.device("cpu")
WISHED = {"alpha": Range(at_least=35.0)}


@pytest.fixture(scope="module")
def data() -> SmallMoleculesDataModule:
    made = SmallMoleculesDataModule(max_heavy_atoms=2, cache=None)
    made.setup("validate")
    return made


def predictor(seed: int) -> Any:
    network = seeded(lambda: EGNNPropertyPredictor(("mu", "alpha"), width=8, num_layers=1), seed)
    network.mean.copy_(torch.tensor([2.0, 30.0]))  # type: ignore[union-attr, operator]
    network.spread.copy_(torch.tensor([1.5, 8.0]))  # type: ignore[union-attr, operator]
    return network.eval().requires_grad_(False)


def task_of(data: Any, ranges: dict[str, Range]) -> MoleculeTask:
    return MoleculeTask(predictor(2), predictor(3), ranges=ranges).for_data(data).for_samples(6)


def test_the_condition_of_a_range_is_a_hinge_in_units_of_the_spread(data: Any) -> None:
    conditions = task_of(data, WISHED).conditions(range(3), CPU)
    loss = conditions["alpha"].loss
    assert isinstance(loss, Hinge)
    assert float(loss.spread) == 8.0
    assert conditions["alpha"].target.tolist() == [[35.0, torch.inf]] * 3
    assert isinstance(conditions["mu"].loss, SquaredError)


def test_the_share_inside_replaces_the_error(data: Any) -> None:
    task = task_of(data, WISHED)
    judged = torch.tensor([[1.0, 34.9], [2.0, 35.0], [3.0, 60.0], [1.0, torch.nan], [1.0, 20.0], [1.0, 36.0]])
    metric = task.metrics[0]
    figures = metric.summary({"judged": judged.double()})
    assert figures.keys() == {"mae_mu", "within_alpha"}
    assert figures["within_alpha"] == pytest.approx(3 / 5)
    error = (judged[:, 0] - task.targets(range(6), ["mu"])[:, 0]).abs().mean()
    assert figures["mae_mu"] == pytest.approx(float(error), rel=1e-6)
    metric.prepare(CPU)
    table = data.table("test")
    labels = table.attributes["alpha"]
    assert metric.reference["within_alpha"] == pytest.approx(float((labels >= 35).float().mean()))
    assert "alpha" not in task.attributes(range(3), CPU)


def test_files_and_pictures_claim_no_target(data: Any) -> None:
    task = task_of(data, WISHED)
    batch = data.table("train")[[0, 1]]
    samples = task.pad(batch.x).expand(2, -1, -1)
    result = ArmResult({}, [], None, samples, {"judged": torch.tensor([[1.0, 40.0], [2.0, 30.0]])})
    assert task._legends(result, 2)[0].endswith("alpha 40.00 (at least 35) bohr^3")
    assert task._fields(result)[0].keys() == {"target_mu", "mu", "alpha"}
    pictures = task_of(data, {"alpha": Range(30.0, 40.0), "mu": Range(at_most=1.0)})
    assert "properties" not in pictures.pictures({"arm": result}, None)


def test_a_range_of_an_unknown_property_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="ranges has 'gap', which neither guide nor judge predicts; known are mu, alp"):
        task_of(data, {"gap": Range(at_most=1.0)})


def test_physics_counts_the_share_inside_by_its_calibrated_line() -> None:
    metric = PhysicsError(workers=1)
    metric.properties = metric.judged = ("alpha", "mu")
    metric.lines = {"alpha": (2.0, 1.0), "mu": (1.0, 0.0)}
    metric.task = SimpleNamespace(ranges=WISHED, targets=lambda indices: torch.zeros(len(indices), 2))
    rows = torch.tensor([[17.0, 1, 0], [16.9, 2, 0], [30, 3, 0], [torch.nan] * 3], dtype=torch.float64)
    figures = metric.summary({"physics": rows})
    assert figures.pop("xtb_max_force") == 0
    assert figures == pytest.approx({"xtb_within_alpha": 2 / 3, "xtb_mae_mu": 2.0, "xtb_converged": 0.75})


@pytest.mark.parametrize("details", [False, True])
def test_real_molecules_have_the_rows_of_samples(details: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = PhysicsError(workers=1, details=details)
    metric.properties = metric.judged = ("alpha", "mu")
    metric.lines = {}
    rows = torch.arange(36, dtype=torch.float64).reshape(12, 3)
    labels = torch.stack((2 * rows[:, 0] + 1, rows[:, 1] + 3), 1)
    rows[4] = torch.nan
    stable = torch.ones(12, dtype=torch.bool)
    metric.task = SimpleNamespace(
        ranges=WISHED, targets=lambda indices: labels[list(indices)], decoded=lambda rows: (None, None)
    )
    monkeypatch.setattr(metric, "_measured_real", lambda split: (rows, labels, stable))
    monkeypatch.setattr("tag_lightning.metrics.physics.stable_molecules", lambda *molecules: stable)
    metric.prepare(CPU)
    figures = metric.summary({"physics": rows})
    assert metric.reference == pytest.approx(figures)
    assert metric.reference["xtb_within_alpha"] == pytest.approx(6 / 11)
    assert not any(name.endswith("mae_alpha") or "median_alpha" in name for name in metric.reference)


def test_a_range_shows_no_error_of_real_molecules_that_the_data_keep() -> None:
    metric = PhysicsError(workers=1)
    metric.properties = metric.judged = ("alpha", "mu")
    metric.task = SimpleNamespace(ranges=WISHED)
    kept = {"xtb_mae_alpha": 0.5, "xtb_mae_mu": 0.2, "xtb_converged": 1.0}
    metric.load_reference_state({"reference": kept, "lines": {"alpha": [1.0, 0.0], "mu": [1.0, 0.0]}})
    assert metric.reference == {"xtb_mae_mu": 0.2, "xtb_converged": 1.0}
