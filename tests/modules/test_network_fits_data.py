"""A network that cannot take the data is refused before training; a trial run has no side effects."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DModel
from tiny_runs import UNET
from torch import nn

from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.datamodules.batch import Batch
from tag_lightning.diffusion import LinearSchedule
from tag_lightning.modules import DiffusionModule, PropertyModule, RegressionModule, TimePredictorModule
from tag_lightning.modules.base import NetworkModule
from tag_lightning.networks import EGNNPropertyPredictor, ImageClassifier, SimpleCNN


def _denoiser() -> NetworkModule:
    return DiffusionModule(UNet2DModel(**UNET), LinearSchedule(20))


def _predictor() -> NetworkModule:
    network = SimpleCNN(8, num_timesteps=20, widths=(8, 8), conditions={"label": 10})
    return TimePredictorModule(network, LinearSchedule(20))


def _guide() -> NetworkModule:
    return PropertyModule(ImageClassifier(widths=(8, 8)))


def _set_up(module: NetworkModule, datamodule: object) -> NetworkModule:
    module._trainer = SimpleNamespace(datamodule=datamodule)  # type: ignore[assignment]
    module.setup("validate")
    return module


@pytest.mark.parametrize(
    ("build", "data", "network"),
    [
        (_denoiser, DigitsDataModule(size=8, tinted=False), r"UNet2DModel.*\[1, 8, 8\]: .*set in_channels"),
        (_denoiser, DigitsDataModule(size=9), r"UNet2DModel.*\[3, 9, 9\]: .*multiples of 2"),
        (_predictor, DigitsDataModule(size=12), r"SimpleCNN.*\[3, 12, 12\]: .*agree"),
        (_guide, DigitsDataModule(size=8, tinted=False), r"ImageClassifier.*\[1, 8, 8\]: .*set in_channels"),
    ],
)
def test_a_network_that_cannot_take_the_data_is_named(
    build: Callable[[], NetworkModule], data: DigitsDataModule, network: str
) -> None:
    data.setup("fit")
    with pytest.raises(ValueError, match=rf"^model\.network \({network}"):
        _set_up(build(), data)


@pytest.mark.parametrize("build", [_denoiser, _predictor, _guide])
def test_trying_a_network_leaves_no_trace(build: Callable[[], NetworkModule]) -> None:
    module = build()
    module.network.register_module("frozen", nn.Dropout().eval())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes, random = [part.training for part in module.modules()], torch.get_rng_state()
    data = DigitsDataModule(size=8)
    data.setup("fit")
    _set_up(module, data)
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in module.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


@pytest.mark.parametrize("datamodule", [None, object()])
@pytest.mark.parametrize("build", [_denoiser, _guide])
def test_data_without_an_example_are_taken_as_they_are(build: Callable[[], NetworkModule], datamodule: object) -> None:
    module, tried = build(), list[object]()
    module.try_network = tried.append  # type: ignore[method-assign]
    _set_up(module, datamodule)
    assert tried == []


@pytest.mark.parametrize("features", [5, 4])
def test_a_network_of_molecules_is_tried_with_their_mask(features: int) -> None:
    x = torch.zeros(1, 3, 3 + features)
    example = Batch(x, {"alpha": torch.zeros(1)}, {"mask": torch.ones(1, 3, dtype=torch.bool)})
    module = RegressionModule(EGNNPropertyPredictor(properties=["alpha"], num_features=5))
    data = SimpleNamespace(example=example)
    if features == 5:
        _set_up(module, data)
        return
    with pytest.raises(ValueError, match=r"EGNNPropertyPredictor.*\[3, 7\]"):
        _set_up(module, data)
