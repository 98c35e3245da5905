"""A table of wrong calls from Python, whose mistakes the command line's types would refuse: each ends in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from sampling_runs import tiny_data, tiny_task
from tiny_runs import SIZE, TIMESTEPS, UNET, TinyNetworks
from torch import nn

from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, LinearSchedule, PointCloudSpace, Sampler
from tag_lightning.evaluation import Arm, compare
from tag_lightning.guidance import DPS, TFG, ConstantStrength, Corruption
from tag_lightning.networks import CIFARResNet, PixelClassifier
from tag_lightning.pretrained import load_pretrained

Place = tuple[TinyNetworks, Path]


def unet() -> UNet2DModel:
    return UNet2DModel(**UNET)


def denoiser() -> Denoiser:
    return Denoiser(unet(), LinearSchedule(TIMESTEPS), "epsilon")


def compared(place: Place, **settings: Any) -> Any:
    task = tiny_task(place[0]).for_data(tiny_data())
    common = {"denoiser": place[0].root / "denoiser", "num_samples": 2, "num_steps": 1, "progress": False}
    return compare({"plain": Arm()}, task=task, **{**common, **settings})


def drawn(*shape: int, indices: Any = range(2)) -> Any:
    return Sampler(denoiser(), DDIM(), 1).sample(ImageSpace(shape, indices), 0)


def classifier(place: Place, name: str) -> PixelClassifier:
    weights = CIFARResNet(8).state_dict()
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, place[1] / "a.safetensors")
    return PixelClassifier(CIFARResNet(8), str(place[1] / "a.safetensors"))


CALLS: dict[str, tuple[Callable[[Place], Any], str]] = {
    "bare network": (lambda p: compared(p, denoiser=unet()), "denoiser must be a Denoiser, or the name, folder or"),
    "denoiser None": (
        lambda p: compared(p, denoiser=None),
        "a network to load must be a name, folder or checkpoint, got",
    ),
    "predictor of 3": (
        lambda p: compared(p, predictor=3),
        "a network to load must be a name, folder or checkpoint, got 3",
    ),
    "samples of text": (lambda p: compared(p, num_samples="4"), "num_samples must be a whole number, got '4'"),
    "samples of 2.5": (lambda p: compared(p, num_samples=2.5), "num_samples must be a whole number, got 2.5"),
    "seed None": (lambda p: compared(p, seed=None), "seed must be a whole number, got None"),
    "chunks of text": (lambda p: compared(p, chunk_size="4"), "chunk_size must be a whole number, got '4'"),
    "unknown device": (lambda p: compared(p, device="foo"), "device must be one that PyTorch finds here, such as cpu"),
    "space elsewhere": (lambda p: ImageSpace((1, 4, 4), [0], "foo"), "device must be one that PyTorch finds here"),
    "cloud elsewhere": (lambda p: PointCloudSpace([2], 1, [0], "cuda:99"), "finds here, such as cpu, got 'cuda:99'"),
    "scale of text": (lambda p: DPS(scale="8"), "scale must be a number, got '8'"),
    "scale by place": (lambda p: DPS(None, "8"), "scale must be a number, got '8'"),
    "scale None": (lambda p: DPS(scale=None), "scale must be a number, got None"),
    "clip of text": (lambda p: DPS(clip="1"), "clip must be a number or None, got '1'"),
    "start of text": (lambda p: DPS(start="1"), "start must be a whole number or None, got '1'"),
    "half a draw": (lambda p: TFG(num_draws=1.5), "num_draws must be a whole number, got 1.5"),
    "sigma in a list": (lambda p: Corruption([0.1]), "sigma must be a number, got [0.1]"),
    "strength of text": (lambda p: ConstantStrength("1"), "omega must be a number, got '1'"),
    "nothing to load": (lambda p: load_pretrained(None), "a network to load must be a name, folder or checkpoint, got"),
    "no schedule": (
        lambda p: Denoiser(unet(), None, "epsilon"),
        "schedule must be the NoiseSchedule that the network was trained",
    ),
    "no network": (lambda p: Denoiser(None, LinearSchedule(9), "epsilon"), "network must be a module that predicts"),
    "sampler of a network": (
        lambda p: Sampler(unet(), DDIM(), 1),
        "denoiser must be a Denoiser, got a UNet2DModel; give",
    ),
    "other channels": (
        lambda p: drawn(1, SIZE, SIZE),
        "(UNet2DModel) cannot take samples of shape [1, 8, 8]: it was bui",
    ),
    "odd size": (lambda p: drawn(3, SIZE - 1, SIZE), "height and width must be multiples of 2"),
    "no samples": (lambda p: drawn(3, SIZE, SIZE, indices=[]), "indices are empty; give at least one index"),
    "NaN in a classifier": (lambda p: classifier(p, "linear.weight"), "NaN or infinity in linear.weight"),
    "NaN in a mean": (lambda p: classifier(p, "bn1.running_mean"), "NaN or infinity in bn1.running_mean"),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str, tiny: TinyNetworks, tmp_path: Path) -> None:
    call, named = CALLS[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is held to the table
        call((tiny, tmp_path))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_network_stay_as_they_are() -> None:
    class Failing(nn.Module):
        def forward(self, x: Any, timesteps: Any) -> Any:
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        Denoiser(Failing(), LinearSchedule(9), "epsilon")(torch.zeros(1, 2), 0)


def test_numbers_of_other_libraries_are_numbers() -> None:
    assert DPS(scale=torch.tensor(2.0).numpy(), start=torch.tensor(3).numpy()[()]).arguments.keys() == {
        "scale",
        "start",
    }
