"""A fit that is cut off, anywhere, and continued ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import UNET

from tag_lightning.callbacks.exact_resume import ExactResume
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import DiffusionModule, TimePredictorModule
from tag_lightning.modules.base import NetworkModule
from tag_lightning.networks import SimpleCNN

# Three epochs of five steps.
LIMITS = [
    pytest.param({"max_epochs": 3}, id="max_epochs"),
    pytest.param({"max_steps": 15}, id="max_steps", marks=pytest.mark.slow),
    pytest.param({"max_epochs": 3, "max_steps": 100}, id="both", marks=pytest.mark.slow),
]


class _PowerCutError(Exception):
    pass


class _PowerCut(Callback):
    """Ends the run without any of Lightning's tidying, before that step can be saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise _PowerCutError


def _time_predictor() -> NetworkModule:
    network = SimpleCNN(sample_size=8, num_timesteps=20, widths=(8, 8))
    return TimePredictorModule(network, LinearSchedule(20), noise_draws=1)


def _denoiser_with_dropout() -> NetworkModule:
    return DiffusionModule(UNet2DModel(**UNET, dropout=0.5), LinearSchedule(20))


def _fit(
    folder: Path,
    limit: dict[str, int],
    cut_at: int = -1,
    continue_from: Path | None = None,
    every: int | None = None,
    num_workers: int = 0,
    batch_size: int = 2048,
    build: Callable[[], NetworkModule] = _time_predictor,
) -> dict[str, Any]:
    """Train, with a checkpoint after ``every`` so many steps or each epoch, and return the last one."""
    seed_everything(0 if continue_from is None else 1)
    module = build()
    checkpoint = ModelCheckpoint(folder, save_last=True, every_n_train_steps=every, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[_PowerCut(cut_at), checkpoint, ExactResume()],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **limit,  # type: ignore[arg-type]
    )
    data = DigitsDataModule(size=8, batch_size=batch_size, num_workers=num_workers)
    source = None if continue_from is None else continue_from / "last.ckpt"
    if cut_at < 0:
        trainer.fit(module, datamodule=data, ckpt_path=source)
    else:
        with pytest.raises(_PowerCutError):
            trainer.fit(module, datamodule=data, ckpt_path=source)
    return torch.load(folder / "last.ckpt", weights_only=True)


def _assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert (first["global_step"], first["epoch"]) == (second["global_step"], second["epoch"])
    for name, value in second["state_dict"].items():
        assert torch.equal(first["state_dict"][name], value), name
    for state, other in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        assert state["state"].keys() == other["state"].keys()
        for key, values in other["state"].items():
            assert all(torch.equal(state["state"][key][name], value) for name, value in values.items())


@pytest.fixture(scope="module", params=LIMITS)
def limit(request: pytest.FixtureRequest) -> dict[str, int]:
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(limit: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _fit(tmp_path_factory.mktemp("whole"), limit)


@pytest.mark.parametrize(
    ("every", "saved_at"),
    [
        pytest.param(3, 3, id="within the first epoch"),
        pytest.param(1, 5, id="at the last batch of an epoch"),
        pytest.param(None, 5, id="at the end of an epoch"),
        pytest.param(1, 6, id="at the first batch of an epoch"),
        pytest.param(2, 8, id="within the second epoch"),
        pytest.param(None, 10, id="at the end of the second epoch"),
    ],
)
def test_a_continued_fit_ends_as_an_uninterrupted_one(
    every: int | None, saved_at: int, limit: dict[str, int], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    stopped = _fit(tmp_path / "cut", limit, saved_at + 1, every=every)
    assert stopped["global_step"] == saved_at
    _assert_same(_fit(tmp_path / "continued", limit, continue_from=tmp_path / "cut"), uninterrupted)


@pytest.mark.parametrize(("first_every", "first_cut"), [(None, 7), (5, 7), (2, 7)])
def test_a_fit_can_be_cut_off_twice_in_one_epoch(
    first_every: int | None, first_cut: int, limit: dict[str, int], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    _fit(tmp_path / "first", limit, first_cut, every=first_every)
    _fit(tmp_path / "second", limit, 9, tmp_path / "first", every=2)
    _assert_same(_fit(tmp_path / "third", limit, continue_from=tmp_path / "second"), uninterrupted)


@pytest.mark.parametrize(("every", "cut_at"), [(1, 8), (None, 7)])
def test_workers_do_not_change_the_order(
    every: int | None, cut_at: int, limit: dict[str, int], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    _fit(tmp_path / "cut", limit, cut_at, every=every, num_workers=1)
    continued = _fit(tmp_path / "continued", limit, continue_from=tmp_path / "cut", num_workers=1)
    _assert_same(continued, uninterrupted)


@pytest.mark.parametrize("steps", [3, 5, 8, 10])
def test_a_fit_that_max_steps_has_ended_can_be_taken_further(
    steps: int, limit: dict[str, int], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    assert _fit(tmp_path / "short", {"max_steps": steps})["global_step"] == steps
    _assert_same(_fit(tmp_path / "continued", limit, continue_from=tmp_path / "short"), uninterrupted)


@pytest.mark.parametrize("total", [{"max_epochs": 4}, {"max_steps": 20}], ids=["max_epochs", "max_steps"])
@pytest.mark.parametrize("steps", [8, 10])
def test_epochs_without_validation_are_counted_too(total: dict[str, int], steps: int, tmp_path: Path) -> None:
    settings = total | {"check_val_every_n_epoch": 2}
    _fit(tmp_path / "short", {"max_steps": steps}, every=steps)
    continued = _fit(tmp_path / "continued", settings, continue_from=tmp_path / "short")
    _assert_same(continued, _fit(tmp_path / "whole", settings))


@pytest.mark.parametrize("cut_at", [3, 4], ids=["within an epoch", "after an epoch"])
def test_dropout_goes_on_too(cut_at: int, tmp_path: Path) -> None:
    limit = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1}
    small: dict[str, Any] = {"batch_size": 8, "build": _denoiser_with_dropout}
    whole = _fit(tmp_path / "whole", limit, **small)
    assert _fit(tmp_path / "cut", limit, cut_at, every=1, **small)["global_step"] == cut_at - 1
    _assert_same(_fit(tmp_path / "on", limit, continue_from=tmp_path / "cut", **small), whole)


def test_every_batch_of_every_process_has_dropout_and_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module, drawn = _denoiser_with_dropout(), set()
    for index, rank in ((0, 0), (0, 1), (1, 0), (1, 1)):
        monkeypatch.setattr(NetworkModule, "batches_trained", index)
        monkeypatch.setattr(NetworkModule, "global_rank", rank)
        module.on_train_batch_start(None, 0)
        drawn |= {torch.rand(1).item(), torch.rand(1, generator=module.generator(index)).item()}
    assert len(drawn) == 8
