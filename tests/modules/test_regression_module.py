"""Training of property predictors: units, loss and errors by hand, reproducible noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, Trainer
from tiny_runs import seeded
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.datamodules.batch import Batch
from tag_lightning.datamodules.molecule_store import Molecules
from tag_lightning.modules import RegressionModule
from tag_lightning.networks import EGNNPropertyPredictor

PROPERTIES = ("mu", "alpha")  # not in the order of the data


@pytest.fixture(scope="module")
def molecules() -> Molecules:
    """Prepared once."""
    return SmallMoleculesDataModule(max_heavy_atoms=3, cache=None).load()


@pytest.fixture
def data(molecules: Molecules, monkeypatch: pytest.MonkeyPatch) -> SmallMoleculesDataModule:
    monkeypatch.setattr(SmallMoleculesDataModule, "load", lambda self: molecules)
    return SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, batch_size=8)


def module(seed: int = 0, properties: tuple[str, ...] = PROPERTIES, **settings: Any) -> RegressionModule:
    network = seeded(lambda: EGNNPropertyPredictor(properties, width=8, num_layers=1), 0)
    assert isinstance(network, EGNNPropertyPredictor)
    return RegressionModule(network, seed=seed, **settings)


def trainer(folder: Path, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    more = {"enable_model_summary": False, "num_sanity_val_steps": 0, "default_root_dir": folder}
    return Trainer(accelerator="cpu", devices=1, **{**quiet, **more, **settings})


def table(data: Any, split: str) -> Any:
    return data.table(split)


def by_hand(data: SmallMoleculesDataModule, split: str) -> Tensor:
    """Labels ``[M, 2]`` in float64, molecule by molecule."""
    molecules = table(data, split)
    rows = [molecules[[i]].attributes for i in range(len(molecules))]
    return torch.tensor([[float(row[name]) for name in PROPERTIES] for row in rows], dtype=torch.float64)


def batch(labels: list[list[float]]) -> Batch:
    """One carbon and one hydrogen a molecule, with these values of ``mu`` and ``alpha``."""
    x = torch.zeros(len(labels), 2, 8)
    x[:, 0, 0], x[:, 1, 0] = -0.5, 0.5
    x[:, 0, 4] = x[:, 1, 3] = 0.25
    columns = torch.tensor(labels).T
    mask = torch.ones(len(labels), 2, dtype=torch.bool)
    return Batch(x, dict(zip(PROPERTIES, columns, strict=True)), {"mask": mask})


def constant(mean: list[float], spread: list[float], **settings: Any) -> RegressionModule:
    """Predicts ``mean`` of every molecule."""
    made = module(**settings)
    last = made.network.molecule[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    made.network.mean.copy_(torch.tensor(mean))
    made.network.spread.copy_(torch.tensor(spread))
    return made


def test_mean_and_spread_are_those_of_the_training_molecules(data: SmallMoleculesDataModule, tmp_path: Path) -> None:
    trained = module()
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(trained, datamodule=data)
    labels = by_hand(data, "train")
    assert labels.std(0).min() > 0.1
    mean = labels.sum(0) / len(labels)
    spread = (labels - mean).abs().sum(0) / len(labels)
    torch.testing.assert_close(trained.network.mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(trained.network.spread.double(), spread, rtol=1e-6, atol=0)


def test_half_of_the_training_molecules_gives_their_own_units(
    data: SmallMoleculesDataModule, molecules: Molecules, tmp_path: Path
) -> None:
    half = SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, batch_size=8, half="first")
    trained = module()
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(trained, datamodule=half)
    torch.testing.assert_close(trained.network.mean.double(), by_hand(half, "train").mean(0), rtol=1e-6, atol=0)
    assert not torch.allclose(by_hand(half, "train").mean(0), by_hand(data, "train").mean(0), rtol=1e-4)


def test_validation_leaves_the_units_of_the_network(data: SmallMoleculesDataModule, tmp_path: Path) -> None:
    validated = constant([3.0, 5.0], [7.0, 11.0])
    trainer(tmp_path).validate(validated, datamodule=data, verbose=False)
    assert validated.network.mean.tolist() == [3, 5]
    assert validated.network.spread.tolist() == [7, 11]


def test_the_loss_is_l1_in_units_of_the_spread() -> None:
    made = constant([2.0, 10.0], [0.5, 4.0])
    # Errors 1 and 2 of mu count 2 and 4; errors 6 and 0 of alpha count 1.5 and 0.
    loss = made.training_step(batch([[1.0, 16.0], [4.0, 10.0]]), 0)
    assert float(loss.detach()) == pytest.approx((2 + 4 + 1.5 + 0) / 4)


def test_the_gradient_reaches_the_network() -> None:
    made = constant([2.0, 10.0], [0.5, 4.0])
    made.training_step(batch([[1.0, 16.0], [1.0, 16.0]]), 0).backward()
    # d|spread * bias - error| / spread / K: one half for either property, by the sign of the error.
    torch.testing.assert_close(made.network.molecule[-1].bias.grad, torch.tensor([0.5, -0.5]))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("verb", ["val", "test"])
def test_errors_are_means_over_all_molecules(
    verb: str, batch_size: int, data: SmallMoleculesDataModule, tmp_path: Path
) -> None:
    data.batch_size = batch_size
    judged = module()
    judged.network.mean.copy_(torch.tensor([2.0, 30.0]))
    judged.network.spread.copy_(torch.tensor([1.5, 8.0]))
    running = trainer(tmp_path)
    (running.validate if verb == "val" else running.test)(judged, datamodule=data, verbose=False)
    molecules = table(data, verb)
    batches = [molecules[[i]] for i in range(len(molecules))]
    with torch.no_grad():
        predicted = torch.cat([judged.network(one.x, **one.inputs) for one in batches]).double()
    errors = (predicted - by_hand(data, verb)).abs()
    logged = {name: float(value) for name, value in running.callback_metrics.items()}
    for k, name in enumerate(PROPERTIES):
        assert logged[f"{verb}/mae_{name}"] == pytest.approx(float(errors[:, k].mean()), rel=1e-5)
    assert logged[f"{verb}/loss"] == pytest.approx(float((errors / torch.tensor([1.5, 8.0])).mean()), rel=1e-5)


def test_a_batch_without_molecules_changes_no_error() -> None:
    made = constant([2.0, 10.0], [0.5, 4.0]).eval()
    made.validation_step(batch([[1.0, 16.0]]), 0)
    made.validation_step(batch([[1.0, 16.0]])._replace(x=torch.zeros(0, 1, 8)), 1)
    assert [float(made.mean_error(name).compute()) for name in PROPERTIES] == [1, 6]


def test_a_property_that_the_data_lack_is_named(data: SmallMoleculesDataModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"predicts 'gap', but the data have alpha, mu; .*data\.init_args\.properties"):
        trainer(tmp_path, max_steps=1).fit(module(properties=("alpha", "gap")), datamodule=data)


class OneTable(LightningDataModule):
    """The same molecules for training and validation."""

    def __init__(self, table: Batch) -> None:
        super().__init__()
        self._table = table

    def table(self, split: str) -> Batch:
        return self._table

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self._table], collate_fn=lambda rows: rows[0])


def test_a_property_that_a_molecule_lacks_counts_in_nothing() -> None:
    made = constant([2.0, 10.0], [0.5, 4.0])
    lacking = batch([[1.0, math.nan], [4.0, 10.0], [math.nan, 16.0], [math.nan, math.nan]])
    loss = made.training_step(lacking, 0)
    assert float(loss.detach()) == pytest.approx((2 + 4 + 0 + 1.5) / 4)
    loss.backward()
    # Two known labels of either property among four: d|spread * bias - error| / spread / 4 each.
    torch.testing.assert_close(made.network.molecule[-1].bias.grad, torch.tensor([0.0, -0.25]))
    made.eval().validation_step(lacking, 0)
    made.validation_step(batch([[math.nan, 11.0]]), 1)
    assert [float(made.mean_error(name).compute()) for name in PROPERTIES] == pytest.approx([1.5, 7 / 3])
    assert float(made.mean_loss.compute()) == pytest.approx((2 + 4 + 0 + 1.5 + 0.25) / 5)


def test_a_batch_without_any_label_has_no_loss_and_no_gradient() -> None:
    made = constant([2.0, 10.0], [0.5, 4.0])
    loss = made.training_step(batch([[math.nan, math.nan]]), 0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not made.network.molecule[-1].bias.grad.any()


def test_mean_and_spread_are_those_of_the_molecules_that_have_the_property(tmp_path: Path) -> None:
    data = OneTable(batch([[1.0, math.nan], [2.0, 3.0], [math.nan, math.nan], [6.0, 1.0]]))
    trained = module()
    trainer(tmp_path, max_steps=1).fit(trained, datamodule=data)
    torch.testing.assert_close(trained.network.mean, torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(trained.network.spread, torch.tensor([2.0, 1.0]))
    assert all(bool(parameter.isfinite().all()) for parameter in trained.network.parameters())


def test_a_property_that_no_training_molecule_has_is_refused(tmp_path: Path) -> None:
    data = OneTable(batch([[1.0, math.nan], [2.0, math.nan]]))
    with pytest.raises(ValueError, match="alpha has no value in any training samples"):
        trainer(tmp_path, max_steps=1).fit(module(), datamodule=data)


def test_a_property_of_one_value_is_refused(tmp_path: Path) -> None:
    data = OneTable(batch([[1.5, 3.0], [1.5, 5.0]]))
    with pytest.raises(ValueError, match=r"^mu is 1\.5 in all 2 training samples, so a network cannot learn it; leave"):
        trainer(tmp_path, max_steps=2).fit(module(), datamodule=data)


def test_labels_that_are_almost_the_same_give_finite_weights(tmp_path: Path) -> None:
    trained = module()
    trainer(tmp_path, max_steps=2).fit(trained, datamodule=OneTable(batch([[1.0, 3.0], [1.0 + 2e-7, 5.0]])))
    assert float(trained.network.spread[0]) == pytest.approx(1e-6)
    assert float(trained.network.spread[1]) == pytest.approx(1.0)
    assert all(bool(value.isfinite().all()) for value in trained.state_dict().values())


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise must be at least 0, got -0\.1"):
        module(noise=-0.1)


def weights(data: SmallMoleculesDataModule, folder: Path, seed: int, noise: float) -> list[Tensor]:
    trained = module(seed=seed, noise=noise)
    trainer(folder, max_steps=2, limit_val_batches=0).fit(trained, datamodule=data)
    return list(trained.network.parameters())


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_noise_follows_from_the_seed_alone(data: SmallMoleculesDataModule, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = weights(data, tmp_path, seed=3, noise=0.2)
    torch.manual_seed(2)
    assert same(weights(data, tmp_path, seed=3, noise=0.2), first)
    assert not same(weights(data, tmp_path, seed=4, noise=0.2), first)
    silent = weights(data, tmp_path, seed=3, noise=0.0)
    assert not same(silent, first)
    assert same(weights(data, tmp_path, seed=4, noise=0.0), silent)


def test_noise_is_as_strong_as_asked_and_only_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = constant([0.0, 0.0], [1.0, 1.0], noise=0.3)
    seen: list[Tensor] = []
    made.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    many = batch([[0.0, 0.0]] * 2000)
    made.training_step(many, 0)
    noise = seen[0] - many.x
    # 32,000 numbers: the deviation of their deviation is 0.4 %.
    assert float(noise.std()) == pytest.approx(0.3, rel=0.016)
    assert float(noise.flatten(0, 1).std(0).min()) > 0.27
    assert noise.unique().numel() > 31_000
    made.eval().validation_step(many, 0)
    assert torch.equal(seen[1], many.x)
