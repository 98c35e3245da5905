"""Training on molecules: centred, masked noise, losses without padding, conditional time predictors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer
from tiny_runs import seeded
from torch import Tensor, nn

from tag_lightning.datamodules import SmallMoleculesDataModule
from tag_lightning.datamodules.batch import Batch
from tag_lightning.diffusion import LinearSchedule, PolynomialSchedule
from tag_lightning.modules import DiffusionModule, TimePredictorModule
from tag_lightning.modules import diffusion as diffusion_module
from tag_lightning.modules.base import noised
from tag_lightning.networks import EGNNDenoiser, EGNNTimePredictor

TIMESTEPS, FEATURES = 20, 5


def masks(sizes: list[int], width: int) -> Tensor:
    return torch.arange(width) < torch.tensor(sizes)[:, None]


def molecules(sizes: list[int], width: int, dtype: torch.dtype = torch.float64) -> Batch:
    """Random ones, each the same at any width."""
    x = torch.zeros(len(sizes), width, 3 + FEATURES, dtype=dtype)
    for i, size in enumerate(sizes):
        atoms = torch.randn(size, 3 + FEATURES, generator=torch.Generator().manual_seed(i), dtype=dtype)
        atoms[:, :3] -= atoms[:, :3].mean(0)
        x[i, :size] = atoms
    return Batch(x, {}, {"mask": masks(sizes, width)})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 999))
def test_noise_is_centred_and_masked_and_mixed_by_the_schedule(sizes: list[int], extra: int, seed: int) -> None:
    schedule = PolynomialSchedule(TIMESTEPS)
    batch = molecules(sizes, max(sizes) + extra)
    mask = batch.inputs["mask"]
    x_t, epsilon, timesteps = noised(batch.x, schedule, torch.Generator().manual_seed(seed), mask)
    for cloud in (x_t, epsilon):
        assert cloud[~mask].eq(0).all()
        assert float(cloud[..., :3].sum(1).abs().max()) < 1e-12
    assert x_t.dtype == epsilon.dtype == torch.float64
    assert 0 <= int(timesteps.min()) <= int(timesteps.max()) < TIMESTEPS
    for i, t in enumerate(timesteps.tolist()):
        kept = float(schedule.alphas_cumprod[t])
        expected = kept**0.5 * batch.x[i] + (1 - kept) ** 0.5 * epsilon[i]
        torch.testing.assert_close(x_t[i], expected, rtol=1e-5, atol=1e-6)


def test_noise_is_standard_normal_in_the_space_of_centred_clouds() -> None:
    count, size, width = 8000, 4, 6
    clean = torch.zeros(count, width, 3 + FEATURES)
    mask = masks([size] * count, width)
    _, epsilon, _ = noised(clean, PolynomialSchedule(TIMESTEPS), torch.Generator().manual_seed(0), mask)
    atoms = epsilon[:, :size].double()
    # The covariance of centred positions is I - 1/n between atoms; of features it is I.
    centring = torch.eye(size, dtype=torch.float64) - 1 / size
    for column in range(3 + FEATURES):
        covariance = atoms[..., column].T @ atoms[..., column] / count
        expected = centring if column < 3 else torch.eye(size, dtype=torch.float64)
        # An entry's deviation is at most sqrt(2 / 8000).
        assert float((covariance - expected).abs().max()) < 5 * (2 / count) ** 0.5
    across = atoms.flatten(0, 1).T @ atoms.flatten(0, 1) / (count * size)
    assert float((across - across.diag().diag()).abs().max()) < 5 / (count * size / 2) ** 0.5


def test_timesteps_are_uniform() -> None:
    count = 20_000
    clean = torch.zeros(count, 1, 4)
    mask = masks([1] * count, 1)
    _, _, timesteps = noised(clean, PolynomialSchedule(TIMESTEPS), torch.Generator().manual_seed(0), mask)
    expected = count / TIMESTEPS
    chi_square = float((timesteps.bincount(minlength=TIMESTEPS) - expected).square().sum() / expected)
    assert abs(chi_square - 19) < 5 * 38**0.5


def test_without_a_mask_noise_is_left_as_it_was_drawn() -> None:
    clean = torch.zeros(50, 3, 4, 4)
    _, epsilon, _ = noised(clean, LinearSchedule(TIMESTEPS), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    torch.randint(TIMESTEPS, (50,), generator=generator)
    assert torch.equal(epsilon, torch.randn(clean.shape, generator=generator))


class Zero(nn.Module):
    """Predicts zero noise at atoms and a huge value at padding."""

    def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask[..., None], 0.0, 1e6).expand_as(x)


def losses(module: DiffusionModule, batch: Batch) -> tuple[float, float]:
    """The training loss and the validation loss."""
    module.mean_loss.reset()
    training = module.train().training_step(batch, 0)
    module.eval().validation_step(batch, 0)
    return float(training.detach()), float(module.mean_loss.compute())


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of every molecule that does not depend on the padding around it, at timesteps 0, 5, 10, .."""

    def fixed(x0: Tensor, schedule: Any, generator: Any, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = mask.sum(1).tolist()
        epsilon = molecules([0] * 7 + sizes, x0.shape[1]).x[7:]
        timesteps = 5 * torch.arange(len(x0)) % TIMESTEPS
        return schedule.add_noise(x0, epsilon, timesteps), epsilon, timesteps

    monkeypatch.setattr(diffusion_module, "noised", fixed)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("network", ["zero", "egnn"])
def test_the_loss_does_not_depend_on_the_width_of_the_padding(network: str) -> None:
    egnn = seeded(lambda: EGNNDenoiser(FEATURES, TIMESTEPS, width=8, num_blocks=2, longest=1.0), 0).double()
    module = DiffusionModule(Zero() if network == "zero" else egnn, PolynomialSchedule(TIMESTEPS))
    sizes = [2, 5, 3]
    narrow, wide = (losses(module, molecules(sizes, width)) for width in (5, 11))
    assert wide == pytest.approx(narrow, rel=1e-10)
    assert narrow[0] > 0.3


@pytest.mark.usefixtures("same_noise")
def test_the_loss_is_the_mean_over_atoms_that_are_real() -> None:
    sizes = [2, 5, 3]
    noise = molecules([0] * 7 + sizes, 5).x[7:]
    # Every atom counts the same, so a large molecule counts more than a small one.
    by_hand = sum(float(noise[i, a, c]) ** 2 for i, n in enumerate(sizes) for a in range(n) for c in range(8)) / 80
    by_molecule = sum(float(noise[i, :n].square().mean()) for i, n in enumerate(sizes)) / 3
    assert abs(by_hand - by_molecule) > 0.01
    module = DiffusionModule(Zero(), PolynomialSchedule(TIMESTEPS))
    assert losses(module, molecules(sizes, 9)) == pytest.approx((by_hand, by_hand))


def test_a_network_that_predicts_nothing_has_the_loss_of_centred_noise() -> None:
    count, size = 4000, 3
    batch = molecules([size] * count, 7, torch.float32)
    module = DiffusionModule(Zero(), PolynomialSchedule(TIMESTEPS))
    # Of n atoms' 3 + F coordinates each, three are taken by the centre of mass.
    dimensions, numbers = (3 + FEATURES) * size - 3, (3 + FEATURES) * size
    deviation = (2 * dimensions / count) ** 0.5 / numbers
    for loss in losses(module, batch):
        assert abs(loss - dimensions / numbers) < 5 * deviation


@pytest.fixture(scope="module")
def data() -> SmallMoleculesDataModule:
    return SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, batch_size=8)


def told_module(conditions: dict[str, int] | None) -> TimePredictorModule:
    network = seeded(
        lambda: EGNNTimePredictor(FEATURES, TIMESTEPS, width=8, num_layers=1, conditions=conditions),
        0,
    )
    assert isinstance(network, EGNNTimePredictor)

    def fast(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.01)

    return TimePredictorModule(network, PolynomialSchedule(TIMESTEPS), fast, noise_draws=2)


def trainer(folder: Path, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    more = {"enable_model_summary": False, "num_sanity_val_steps": 0, "default_root_dir": folder}
    return Trainer(accelerator="cpu", devices=1, **{**quiet, **more, **settings})


def test_a_time_predictor_told_a_quantity_trains_in_its_units(data: SmallMoleculesDataModule, tmp_path: Path) -> None:
    module = told_module({"alpha": 0})
    before = {name: value.clone() for name, value in module.network.named_parameters()}
    running = trainer(tmp_path, max_epochs=2)
    running.fit(module, datamodule=data)
    table: Any = data.table("train")
    values = [float(table[[i]].attributes["alpha"][0]) for i in range(len(table))]
    mean = sum(values) / len(values)
    spread = sum(abs(value - mean) for value in values) / len(values)
    embedding = module.network.embedding
    assert embedding is not None
    assert float(embedding.mean[0]) == pytest.approx(mean, rel=1e-6)
    assert float(embedding.spread[0]) == pytest.approx(spread, rel=1e-5)
    assert spread > 1
    # What the quantity goes through is trained as well.
    changed = {name for name, value in module.network.named_parameters() if not torch.equal(value, before[name])}
    assert changed == set(before)
    assert 0 < float(running.callback_metrics["val/loss"]) < 10
    assert bool(module.network.typical_nll.isfinite().all())


def test_what_was_measured_stays_when_the_run_only_validates(data: SmallMoleculesDataModule, tmp_path: Path) -> None:
    module = told_module({"alpha": 0})
    embedding = module.network.embedding
    assert embedding is not None
    embedding.mean.fill_(3.0)
    embedding.spread.fill_(7.0)
    running = trainer(tmp_path)
    running.validate(module, datamodule=data, verbose=False)
    assert (float(embedding.mean[0]), float(embedding.spread[0])) == (3, 7)
    one = float(running.callback_metrics["val/loss"])
    embedding.mean.fill_(30.0)
    running.validate(module, datamodule=data, verbose=False)
    assert float(running.callback_metrics["val/loss"]) != one


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_an_unknown_condition_is_named(verb: str, data: SmallMoleculesDataModule, tmp_path: Path) -> None:
    module = told_module({"alpha": 0, "gap": 0})
    running = trainer(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"conditioned on 'gap', but the data carry alpha, mu; change") as caught:
        getattr(running, verb)(module, datamodule=data)
    assert "\n" not in str(caught.value)


def test_data_without_attributes_are_named_so(tmp_path: Path) -> None:
    bare = SmallMoleculesDataModule(max_heavy_atoms=3, cache=None, properties=())
    with pytest.raises(ValueError, match=r"conditioned on 'alpha', but the data carry \(none\)"):
        trainer(tmp_path, max_steps=1).fit(told_module({"alpha": 0}), datamodule=bare)
