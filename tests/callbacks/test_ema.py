"""The averaged weights: their recursion, where they are, and what is saved and resumed of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from tiny_runs import denoiser_arguments
from torch import Tensor, nn

from tag_lightning.callbacks import WarmedUpEMA
from tag_lightning.cli import main


class _Walk(LightningModule):
    """Weights that go through given values."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.values = values
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, index: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]
        self.weight.data.fill_(self.values[index])
        self.count += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def _train(module: _Walk, ema: WarmedUpEMA, tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[ema],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(len(module.values))))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.9999])
def test_the_average_follows_its_recursion(decay: float, tmp_path: Path) -> None:
    values = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    module = _Walk(values)
    _train(module, WarmedUpEMA(decay), tmp_path)
    expected = values[0]
    for n, value in enumerate(values[1:], 1):
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    assert module.weight.detach().numpy() == pytest.approx(expected, rel=1e-12)
    assert int(module.count) == 12


def test_the_average_is_where_the_module_is() -> None:
    module, ema = _Walk([0.0]), WarmedUpEMA()
    ema.setup(Trainer(accelerator="cpu", logger=False), module, "fit")
    module.to("meta")  # as a strategy moves it to its device after the callbacks' setup
    ema.on_fit_start(Trainer(accelerator="cpu", logger=False), module)
    assert ema._average_model is not None
    assert {value.device.type for value in ema._average_model.module.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_an_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must be at least 0 and less than 1"):
        WarmedUpEMA(decay)


def test_a_resumed_run_averages_as_an_uninterrupted_one(tmp_path: Path) -> None:
    every_step = "{class_path: ModelCheckpoint, init_args: {save_last: true, every_n_train_steps: 1}}"
    average = "{class_path: WarmedUpEMA, init_args: {decay: 0.5}}"
    runs = [tmp_path / "whole", tmp_path / "parted"]
    arguments = [
        [
            *denoiser_arguments("fit", run, "--trainer.limit_train_batches=4", "--sampling.every_n_epochs=9"),
            f"--trainer.callbacks=[{every_step}, {average}]",
            "--sampling.task.init_args.features=auto",
        ]
        for run in runs
    ]
    main(arguments[0])
    failing = "{class_path: tiny_runs.FailingStep, init_args: {step: 3}}"
    with pytest.raises(RuntimeError, match="failed as asked for"):
        main([*arguments[1][:-2], f"--trainer.callbacks=[{every_step}, {average}, {failing}]", arguments[1][-1]])
    main([*arguments[1], "--ckpt_path=last"])
    whole, parted = (
        torch.load(max(run.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns), weights_only=True)
        for run in runs
    )
    assert whole["global_step"] == parted["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        for name, value in whole[part].items():
            assert torch.equal(value, parted[part][name])
    assert any(not torch.equal(v, whole["current_model_state"][k]) for k, v in whole["state_dict"].items())
