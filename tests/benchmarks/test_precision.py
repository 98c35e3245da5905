"""Steps are timed with networks accelerated as arms of a comparison have them."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmarks import precision
from tag_lightning.networks import ImageClassifier, SimpleCNN


def test_the_denoiser_alone_runs_under_autocast() -> None:
    autocast: dict[str, set[bool]] = {}

    def note(module: nn.Module, args: object) -> None:
        if isinstance(module, nn.Conv2d):
            for kind, parts in inside.items():
                if module in parts:
                    autocast.setdefault(kind, set()).add(torch.is_autocast_enabled("cpu"))
        elif isinstance(module, UNet2DModel | SimpleCNN | ImageClassifier):
            inside.setdefault(type(module).__name__, set(module.modules()))

    inside: dict[str, set[nn.Module]] = {}
    jobs = precision.jobs(torch.device("cpu"), ["bfloat16"], 2, True)
    hook = register_module_forward_pre_hook(note)
    try:
        jobs["bfloat16, dps+tag"]()
    finally:
        hook.remove()
    assert autocast == {"UNet2DModel": {True}, "SimpleCNN": {False}, "ImageClassifier": {False}}
