"""Train and evaluate Temporal Alignment Guidance (TAG) for guided diffusion, on PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tag_lightning.diffusion import DDIM, Denoiser, Sampler
    from tag_lightning.evaluation import compare
    from tag_lightning.guidance import DPS, Condition, TemporalAlignment
    from tag_lightning.pretrained import load_pretrained

__version__ = "0.3.0"

__all__ = [
    "DDIM",
    "DPS",
    "Condition",
    "Denoiser",
    "Sampler",
    "TemporalAlignment",
    "compare",
    "load_pretrained",
]

# Imported at first use: every module of the package runs this file, which must not load all the others.
_ROOMS = {
    "DDIM": "diffusion",
    "Denoiser": "diffusion",
    "Sampler": "diffusion",
    "compare": "evaluation",
    "DPS": "guidance",
    "Condition": "guidance",
    "TemporalAlignment": "guidance",
    "load_pretrained": "pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
