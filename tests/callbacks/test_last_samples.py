"""``fit`` ends with samples of the final weights, or says that it did not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping
from sampling_runs import tiny_data, tiny_module, tiny_sampling, tiny_trainer
from tiny_runs import TinyNetworks

from tag_lightning.evaluation import Arm


class StopInTraining(Callback):
    """Asks the training to stop, as ``max_time`` does."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 2


def _fit(
    tiny: TinyNetworks, folder: Path, *callbacks: Any, sampling: dict[str, Any] | None = None, **limits: Any
) -> tuple[int | None, str]:
    """The global step of the results, None without any, and what warnings of missing samples there were."""
    settings = {"arms": {"unguided": Arm()}, "every_n_epochs": 9} | (sampling or {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny_trainer(folder, tiny_sampling(tiny, **settings), *callbacks, **limits).fit(
            tiny_module(), datamodule=tiny_data()
        )
    texts = [str(w.message) for w in caught if "without samples of the final weights" in str(w.message)]
    file = folder / "results.json"
    return json.loads(file.read_text())["global_step"] if file.exists() else None, "\n".join(texts)


@pytest.mark.parametrize(
    ("limits", "callbacks", "step"),
    [
        ({"max_steps": 2, "max_epochs": 5}, [], 2),
        ({"max_epochs": 5}, [StopInTraining()], 2),
        ({"max_epochs": 3}, [], 3),
    ],
    ids=["max_steps", "should_stop", "max_epochs"],
)
def test_the_last_validation_samples_whatever_ends_the_run(
    limits: dict[str, Any], callbacks: list[Callback], step: int, tiny: TinyNetworks, tmp_path: Path
) -> None:
    assert _fit(tiny, tmp_path, *callbacks, **limits) == (step, "")


@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": 3, "check_val_every_n_epoch": 10},
        {"max_steps": 1, "max_epochs": 5, "limit_train_batches": 2},
        {"max_epochs": 1, "limit_val_batches": 0},
    ],
    ids=["not validated", "within an epoch", "no validation"],
)
def test_without_a_last_validation_one_warning_has_the_way_out(
    limits: dict[str, Any], tiny: TinyNetworks, tmp_path: Path
) -> None:
    step, warning = _fit(tiny, tmp_path, **limits)
    assert step is None
    assert len(warning.splitlines()) == 1
    assert "(nothing was sampled): no validation followed the last step" in warning
    assert f"validate --config {tmp_path / 'config.yaml'} --ckpt_path last" in warning


def test_results_of_earlier_weights_are_called_so(tiny: TinyNetworks, tmp_path: Path) -> None:
    step, warning = _fit(tiny, tmp_path, sampling={"every_n_epochs": 2}, max_epochs=3, check_val_every_n_epoch=2)
    assert step == 2
    assert "fit ended at step 3 without samples of the final weights (last sampled at step 2)" in warning


def test_early_stopping_which_decides_after_the_samples(tiny: TinyNetworks, tmp_path: Path) -> None:
    stopping = EarlyStopping("val/loss", min_delta=1e9, patience=1)
    step, warning = _fit(tiny, tmp_path, stopping, max_epochs=5)
    assert step is None
    assert "sampling.every_n_epochs is 9" in warning


def test_without_a_denoiser_no_samples_are_missed(tiny: TinyNetworks, tmp_path: Path) -> None:
    assert _fit(tiny, tmp_path, sampling={"denoiser": None}, max_epochs=1, limit_val_batches=0) == (None, "")
