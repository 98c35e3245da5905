"""What molecules are asked for and how they are judged, drawn and written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import seeded
from torch import Tensor

from tag_lightning.chemistry import read_sdf
from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.evaluation import ArmResult, MoleculeTask, molecule_task
from tag_lightning.metrics import PropertyError, molecule_quality
from tag_lightning.networks import EGNNPropertyPredictor

CPU = torch.device("cpu")
# Three orders of the same names: of the data, of the task (the guide's, then what the judge adds), of the judge.
CARRIED, ASKED, JUDGED = ("alpha", "mu", "MolWt"), ("mu", "alpha", "MolWt"), ("MolWt", "alpha")


@pytest.fixture(scope="module")
def data() -> SmallMoleculesDataModule:
    made = SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, properties=CARRIED)
    made.setup("validate")
    return made


def predictor(names: tuple[str, ...], seed: int) -> EGNNPropertyPredictor:
    network = seeded(lambda: EGNNPropertyPredictor(names, width=8, num_layers=1), seed)
    assert isinstance(network, EGNNPropertyPredictor)
    units = {"alpha": (30.0, 8.0), "mu": (2.0, 1.5), "MolWt": (40.0, 5.0)}
    network.mean.copy_(torch.tensor([units[name][0] for name in names]))
    network.spread.copy_(torch.tensor([units[name][1] for name in names]))
    return network.eval().requires_grad_(False)


GUIDE, JUDGE = predictor(("mu", "alpha"), 2), predictor(JUDGED, 3)


def task_of(data: Any, guide: Any = GUIDE, judge: Any = JUDGE, seed: int = 0, count: int = 60) -> MoleculeTask:
    return MoleculeTask(guide, judge).for_data(data).for_samples(count, seed)


@pytest.fixture
def task(data: SmallMoleculesDataModule) -> MoleculeTask:
    return task_of(data)


def rows_of(data: Any, task: MoleculeTask, count: int, asked: tuple[str, ...] = ASKED) -> list[int]:
    """The training molecule with the targets of each sample, found by its labels."""
    train = data.table("train")
    labels = torch.stack([train.attributes[name] for name in asked], 1)
    found = (task.targets(range(count))[:, None] == labels).all(-1)
    assert found.sum(1).eq(1).all()
    return found.int().argmax(1).tolist()


def real(data: Any, task: MoleculeTask, count: int, asked: tuple[str, ...] = ASKED) -> tuple[Tensor, Tensor]:
    """The very training molecules that the samples take sizes and targets from, padded, and their mask."""
    batch = data.table("train")[rows_of(data, task, count, asked)]
    mask = torch.zeros(count, data.sample_shape[0], dtype=torch.bool)
    mask[:, : batch.x.shape[1]] = batch.inputs["mask"]
    return task.pad(batch.x), mask


def test_size_and_targets_are_of_the_same_training_molecule(data: Any, task: MoleculeTask) -> None:
    assert task.properties == ASKED
    train = data.table("train")
    rows = rows_of(data, task, 50)
    assert task.sizes(range(50)).tolist() == train.sizes[rows].tolist()
    attributes = task.attributes(range(50), CPU)
    assert set(attributes) == set(CARRIED)
    for name, values in attributes.items():
        assert torch.equal(values, train.attributes[name][rows])


def test_what_is_asked_follows_from_seed_and_index_alone(data: Any, task: MoleculeTask) -> None:
    sizes, targets = task.sizes(range(40)), task.targets(range(40))
    torch.manual_seed(1)
    again = task_of(data)
    picked = [31, 4, 17]
    assert torch.equal(again.sizes(picked), sizes[picked])
    assert torch.equal(again.targets(picked), targets[picked])
    other = task_of(data, seed=1)
    assert not torch.equal(other.targets(range(40)), targets)
    # Nor does it depend on what the networks predict.
    alone = task_of(data, None, predictor(("alpha",), 4))
    assert torch.equal(alone.targets(range(40))[:, 0], targets[:, 1])


def test_molecules_without_a_label_are_not_asked_for_and_do_not_count(data: Any) -> None:
    table, test = data.table("train"), data.table("test")
    kept = table.attributes["mu"], test.attributes["alpha"]
    table.attributes["mu"] = torch.where(torch.arange(len(table)) % 3 == 0, torch.nan, kept[0])
    test.attributes["alpha"] = torch.where(torch.arange(len(test)) == 0, torch.nan, kept[1])
    try:
        task = task_of(data)
        rows = rows_of(data, task, 200)
        assert all(row % 3 for row in rows)
        assert len(set(rows)) == sum(k % 3 != 0 for k in range(len(table)))
        (error,) = (metric for metric in task.metrics if isinstance(metric, PropertyError))
        error.prepare(CPU)
        batch = test[list(range(len(test)))]
        judged = JUDGE(batch.x, batch.inputs["mask"])[1:, 1]
        assert error.reference["mae_alpha"] == pytest.approx(float((judged - kept[1][1:]).abs().mean()), rel=1e-5)
        table.attributes["mu"] = torch.full_like(kept[0], torch.nan)
        with pytest.raises(ValueError, match="no training molecule has all of mu, alpha, MolWt"):
            task_of(data)
    finally:
        table.attributes["mu"], test.attributes["alpha"] = kept


def test_a_network_without_a_spread_judges_and_does_not_guide(data: Any) -> None:
    judge = MEGNetStandIn()
    task = task_of(data, judge=judge)
    x, mask = real(data, task, 5, ("mu", "alpha"))
    assert torch.equal(task.rows(x, range(5))["judged"], mask.sum(1, keepdim=True).float())
    with pytest.raises(ValueError, match=r"guide MEGNetStandIn has no spread.* must not guide"):
        task_of(data, guide=judge, judge=None)


class MEGNetStandIn(torch.nn.Module):
    """Only predicts."""

    properties = ("alpha",)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Number of atoms."""
        return mask.sum(1, keepdim=True).float()


def test_training_molecules_are_drawn_evenly(data: Any, task: MoleculeTask) -> None:
    train, draws = data.table("train"), 4000
    chosen = torch.tensor(rows_of(data, task, draws)).bincount(minlength=len(train))
    expected = draws / len(train)
    # Chi-square of as many degrees of freedom as molecules less one: mean 23, deviation 6.8.
    degrees = len(train) - 1
    assert abs(float((chosen - expected).square().sum() / expected) - degrees) < 5 * math.sqrt(2 * degrees)
    sizes = task.sizes(range(draws)).bincount(minlength=12).double()
    histogram = train.sizes.bincount(minlength=12).double() * draws / len(train)
    present = histogram > 0
    assert sizes[~present].eq(0).all()
    degrees = int(present.sum()) - 1
    chi_square = float(((sizes - histogram).square() / histogram)[present].sum())
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def test_chunks_take_samples_by_size(task: MoleculeTask) -> None:
    order = task.order()
    assert sorted(order) == list(range(60))
    keys = [(int(task.sizes([i])), i) for i in order]
    assert keys == sorted(keys)
    assert len({size for size, _ in keys}) > 3


def test_a_chunk_lives_in_a_space_of_its_sizes(data: Any, task: MoleculeTask) -> None:
    indices = [3, 7, 5]
    space = task.space(indices, CPU)
    sizes = task.sizes(indices)
    assert space.width == int(sizes.max())
    assert space.mask.sum(1).tolist() == sizes.tolist()
    assert list(space.indices) == indices
    assert space.num_features == data.sample_shape[1] - 3


def test_a_chunk_is_padded_with_zeros(data: Any, task: MoleculeTask) -> None:
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    padded = task.pad(x)
    assert padded.shape == (3, *data.sample_shape)
    assert padded.dtype == x.dtype
    assert torch.equal(padded[:, :4], x)
    assert padded[:, 4:].eq(0).all()


def test_conditions_are_squared_errors_in_units_of_the_spread(data: Any) -> None:
    guide = predictor(("mu", "alpha"), 2).double()
    task = task_of(data, guide, JUDGE)
    count = 4
    x, mask = real(data, task, count)
    generator = torch.Generator().manual_seed(0)
    x = x.double() + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64) * mask[..., None]
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    # In another order than the samples', to see that targets follow their indices.
    turned = [2, 0, 3, 1]
    conditions = task.conditions(turned, CPU)
    assert list(conditions) == ["mu", "alpha"]
    x, mask = x[turned], mask[turned]
    for k, (name, spread) in enumerate((("mu", 1.5), ("alpha", 8.0))):
        target = task.targets(turned)[:, ASKED.index(name)].double()

        def by_hand(x: Tensor, k: int = k, target: Tensor = target, spread: float = spread) -> Tensor:
            return -(((guide(x, mask)[:, k] - target) / spread) ** 2)

        at = x.clone().requires_grad_()
        value = conditions[name].log_likelihood(at, mask=mask)
        torch.testing.assert_close(value, by_hand(x))
        (gradient,) = torch.autograd.grad(value.sum(), at)
        step = 1e-5
        numeric = (by_hand(x + step * direction) - by_hand(x - step * direction)) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum((1, 2)), numeric, rtol=1e-6, atol=1e-8)
        assert numeric.abs().min() > 1e-4


def test_without_a_guide_there_are_no_conditions(data: Any) -> None:
    task = task_of(data, None, JUDGE)
    assert task.guide is None
    assert task.conditions([0, 1], CPU) == {}


def test_the_judge_sees_molecules_whose_elements_are_decided(data: Any, task: MoleculeTask) -> None:
    count = 6
    clean, mask = real(data, task, count)
    generator = torch.Generator().manual_seed(0)
    blurred = clean.clone()
    # Less than half the gap between an element and the others, and on another scale: the same elements.
    blurred[..., 3:] = 7 * (clean[..., 3:] + 0.12 * torch.rand(clean[..., 3:].shape, generator=generator)) - 2
    indices = list(range(count))
    expected = JUDGE(clean, mask)
    rows = task.rows(blurred, indices)
    torch.testing.assert_close(rows["judged"], expected)
    assert not torch.allclose(JUDGE(blurred, mask), expected, rtol=1e-3)
    assert torch.equal(rows["molecules"], blurred.flatten(1))
    assert {name: values.shape[1] for name, values in rows.items()} == task.columns
    turned = [4, 1]
    torch.testing.assert_close(task.rows(blurred[turned], turned)["judged"], expected[turned])


def test_columns_are_those_that_can_be_measured(data: Any) -> None:
    width = math.prod(data.sample_shape)
    assert task_of(data, None, None).columns == {"molecules": width}
    assert task_of(data, GUIDE, None).columns == {"molecules": width}
    assert task_of(data, None, JUDGE).columns == {"molecules": width, "judged": 2}


def test_real_molecules_are_judged_for_reference(data: Any, task: MoleculeTask) -> None:
    task.prepare([], CPU)
    test = data.table("test")
    rows = [test[[i]] for i in range(len(test))]
    for k, name in enumerate(JUDGED):
        errors = [abs(float(JUDGE(row.x, row.inputs["mask"])[0, k] - row.attributes[name][0])) for row in rows]
        assert task.reference[f"mae_{name}"] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    quality = molecule_quality(test.molecules.numbers.long(), test.molecules.positions)
    assert {name: task.reference[name] for name in quality} == quality
    assert "novelty" not in task.reference
    assert task.num_reference == len(data.table("train"))


def test_figures_leave_out_what_is_not_finite_and_count_it(data: Any, task: MoleculeTask) -> None:
    task.prepare([], CPU)
    count, broken = 8, 5
    x, _ = real(data, task, count)
    x[broken, 1, 0] = torch.nan
    targets = task.targets(range(count))
    errors = torch.tensor([[1.0, 0.5], [-3.0, 0.25], [2.0, 0.0], [0.0, -1.0], [6.0, 2.0], [9, 9], [0, 1], [2, 0.25]])
    judged = targets[:, [ASKED.index(name) for name in JUDGED]] + errors
    judged[broken] = torch.nan
    judged[6, 1] = torch.inf
    figures = task.summary({"molecules": x.flatten(1), "judged": judged})
    assert figures["mae_MolWt"] == pytest.approx((1 + 3 + 2 + 0 + 6 + 0 + 2) / 7, rel=1e-4)
    assert figures["mae_alpha"] == pytest.approx((0.5 + 0.25 + 0 + 1 + 2 + 0.25) / 6, rel=1e-4)
    assert figures["nan"] == 1 / 8
    kept = [i for i in range(count) if i != broken]
    rows = rows_of(data, task, count)
    assert figures["validity"] == 7 / 8
    assert figures["uniqueness"] == pytest.approx(len({rows[i] for i in kept}) / 7)
    assert figures["novelty"] == 0
    assert "mae_mu" not in figures  # the guide's, which must not score


def test_new_molecules_are_novel(data: Any, task: MoleculeTask) -> None:
    task.prepare([], CPU)
    x, _ = real(data, task, 3)
    hydrogen, fluorine = (3 + task.encoding.elements.index(number) for number in (1, 9))
    x[1, int(x[1, :, hydrogen].argmax()), 3:] = torch.nn.functional.one_hot(torch.tensor(fluorine - 3), x.shape[2] - 3)
    figures = task.summary({"molecules": x.flatten(1), "judged": torch.zeros(3, 2)})
    distinct = len({row for i, row in enumerate(rows_of(data, task, 3)) if i != 1}) + 1
    assert figures["validity"] == 1
    assert figures["novelty"] == pytest.approx(1 / distinct)


def test_torn_molecules_are_neither_valid_nor_novel(data: Any, task: MoleculeTask) -> None:
    task.prepare([], CPU)
    x, _ = real(data, task, 3)
    x[1, :, :3] += 50 * torch.arange(x.shape[1])[:, None]
    figures = task.summary({"molecules": x.flatten(1), "judged": torch.zeros(3, 2)})
    assert figures["validity"] == figures["connected"] == pytest.approx(2 / 3)
    assert figures["novelty"] == 0


def result(data: Any, task: MoleculeTask, count: int) -> ArmResult:
    x, _ = real(data, task, count)
    return ArmResult({}, [], None, x, task.rows(x, range(count)))


def test_pictures_are_bytes(data: Any, task: MoleculeTask) -> None:
    results = {"unguided": result(data, task, 20), "dps+tag": result(data, task, 20)}
    results["dps+tag"].rows["judged"][:] = torch.nan
    pictures = task.pictures(results, None)
    assert set(pictures) == {"samples/unguided", "samples/dps+tag", "properties"}
    for picture in pictures.values():
        assert picture.dtype == torch.uint8
        assert picture.ndim == 3
        assert picture.shape[0] == 3
        assert len(picture.unique()) > 2
    alone = task_of(data, GUIDE, None)
    assert set(alone.pictures({"unguided": results["unguided"]}, None)) == {"samples/unguided"}


def test_legends_tell_property_target_and_unit(data: Any, task: MoleculeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(molecule_task, "molecule_grid", lambda *args: seen.append(args) or torch.zeros(3, 1, 1))
    made = result(data, task, 20)
    made.rows["judged"][0] = torch.tensor([41.2345, 27.5])
    targets = task.targets

    def known(indices: Any, names: Any = None) -> Tensor:
        found = targets(indices, names)
        assert tuple(names) == JUDGED
        found[0] = torch.tensor([44.0, 26.375])
        return found

    monkeypatch.setattr(task, "targets", known)
    made.rows["judged"][1] = torch.nan
    task.pictures({"unguided": made}, None)
    numbers, positions, legends = seen[0]
    assert numbers.shape[0] == positions.shape[0] == len(legends) == 16
    lines = [line.strip() for line in legends[0].splitlines()]
    assert lines == ["MolWt 41.23 (target 44.00)", "alpha 27.50 (target 26.38) bohr^3"]
    assert legends[1].startswith("MolWt nan (target ")
    assert (numbers > 0).sum(1).tolist() == task.sizes(range(16)).tolist()


def test_written_molecules_carry_targets_and_what_was_judged(data: Any, task: MoleculeTask, tmp_path: Path) -> None:
    count = 5
    x, mask = real(data, task, count)
    paths = task.write(result(data, task, count), tmp_path / "samples", "dps")
    assert [path.name for path in paths] == ["dps.sdf", "dps-perceived.sdf", "dps.npz"]
    judged, targets = JUDGE(x, mask), task.targets(range(count))
    for index, mol, _ in read_sdf(paths[0], sanitize=False):
        assert mol is not None
        fields = mol.GetPropsAsDict()
        expected = {f"target_{name}": float(targets[index, k]) for k, name in enumerate(ASKED)}
        expected |= {name: float(judged[index, k]) for k, name in enumerate(JUDGED)}
        assert {name: fields[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert fields["sample"] == index
    assert index == count - 1
    with np.load(paths[2]) as archive:
        numbers, _ = data.encoding.decode(x, mask)
        assert np.array_equal(archive["numbers"], numbers.numpy())
        assert np.array_equal(archive["positions"], x[..., :3].numpy())


def test_physics_joins_figures_reference_and_files(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    source = SmallMoleculesDataModule(max_heavy_atoms=4, cache=None, properties=("alpha", "mu"))
    task = MoleculeTask(GUIDE, physics=True).for_data(source).for_samples(3)
    assert task.columns == {"molecules": math.prod(source.sample_shape), "physics": 3}
    task.prepare([], CPU)
    x, _ = real(source, task, 3, ("mu", "alpha"))
    rows = {name: values.double() for name, values in task.rows(x, range(3)).items()}
    figures = task.summary(rows)
    assert figures["xtb_converged"] == 1
    # The samples are training molecules with their own properties as targets.
    assert 0 < task.reference["xtb_mae_alpha"] < 5
    assert 0 < figures["xtb_mae_alpha"] < 5
    paths = task.write(ArmResult(figures, [], None, x, rows), tmp_path, "dps")
    fields = next(mol for _, mol, _ in read_sdf(paths[0], sanitize=False) if mol is not None).GetPropsAsDict()
    assert {"xtb_mu", "xtb_alpha", "xtb_max_force", "target_mu"} <= fields.keys()


def test_figures_are_ratios_of_the_sums_of_their_terms(data: Any, task: MoleculeTask) -> None:
    x, _ = real(data, task, 60)
    x = x.clone()
    x[::7] *= 1.3  # unstable
    x[5] = math.nan
    rows = {name: values.double() for name, values in task.rows(x, range(60)).items()}
    figures = task.summary(rows)
    terms = {name: pair for metric in task.metrics for name, pair in metric.terms(rows).items()}
    assert terms.keys() == {"atom_stability", "mae_MolWt", "mae_alpha"}
    for name, (above, below) in terms.items():
        assert above.shape == below.shape == (60,)
        assert float(above.sum() / below.sum()) == pytest.approx(figures[name], rel=1e-6)
    assert 0.1 < figures["atom_stability"] < 1
