"""Training by ``torch.compile``: the same weights, and nothing of the compiler outside of the training steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from lightning import Callback, LightningModule, Trainer, seed_everything
from tiny_runs import UNET, fit_briefly

from tag_lightning.callbacks import CompiledTraining, PretrainedExport, WarmedUpEMA
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import ComparisonModule, DiffusionModule
from tag_lightning.networks import EGNNDenoiser
from tag_lightning.pretrained import load_pretrained

COMPILE = torch.compile


def trained(folder: Path, *callbacks: Callback) -> tuple[LightningModule, dict[str, torch.Tensor]]:
    """The module after five steps, and the exported weights."""
    seed_everything(0)
    module = DiffusionModule(UNet2DModel(**UNET), LinearSchedule(20))
    averaging = WarmedUpEMA(decay=0.5)
    fit_briefly(module, folder, DigitsDataModule(size=8, batch_size=32), averaging, PretrainedExport(), *callbacks)
    return module, load_pretrained(folder / "pretrained").network.state_dict()


def test_the_weights_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []

    def eager(forward: Callable[..., Any]) -> Callable[..., Any]:
        compiled = COMPILE(forward, backend="eager")

        def noting(*args: Any, **inputs: Any) -> Any:
            modes.append(torch.is_grad_enabled())
            return compiled(*args, **inputs)

        return noting

    _, plain = trained(tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", eager)
    module, compiled = trained(tmp_path / "compiled", CompiledTraining())
    assert modes == [True] * 5, "five training steps, and neither the trial run nor the validation"
    assert "forward" not in vars(module.network)
    assert plain.keys() == compiled.keys()
    for name, values in plain.items():
        torch.testing.assert_close(compiled[name], values, rtol=1e-5, atol=1e-6)


def test_a_network_that_cannot_be_compiled_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise NotImplementedError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda forward: COMPILE(forward, backend=broken))
    with pytest.raises(ValueError, match=r"has CompiledTraining, but torch.compile failed on .*no compiler here"):
        trained(tmp_path, CompiledTraining())


def test_a_module_without_a_network_is_named() -> None:
    with pytest.raises(ValueError, match="ComparisonModule has no network for CompiledTraining"):
        CompiledTraining().on_fit_start(Trainer(logger=False), ComparisonModule())


@pytest.mark.slow
def test_the_real_compiler_finds_the_same_gradients() -> None:
    """Molecules of several sizes, for which it compiles twice."""
    torch.manual_seed(0)
    network = EGNNDenoiser(5, 20, width=8, num_blocks=1, longest=2.5, num_bases=16, shared_messages=True)
    module, callback, trainer = DiffusionModule(network, LinearSchedule(20)), CompiledTraining(), Trainer(logger=False)
    gradients: list[list[torch.Tensor]] = []
    for start in (lambda *_: None, callback.on_train_batch_start):
        torch.manual_seed(1)
        gradients.append([])
        for size in (5, 7, 6):
            start(trainer, module, None, 0)
            mask = torch.ones(4, size, dtype=torch.bool)
            network(torch.randn(4, size, 8), torch.arange(4), mask=mask).square().mean().backward()
            gradients[-1] += [p.grad.clone() for p in network.parameters() if p.grad is not None]
            network.zero_grad()
            callback.on_train_batch_end(trainer, module)
    assert len(gradients[0]) == len(gradients[1]) > 10
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)
