"""Mixed precision and compilation of networks while samples are drawn, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tag_lightning.compilation import naming_the_compiler

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""The precision of the denoiser, in Lightning's words."""

_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Acceleration:
    """How networks compute while samples are drawn; at other times they are untouched.

    Args:
        precision: Precision of denoisers, whose output is cast back to float32; guides and time predictors stay in
            float32, since their gradients are small differences.
        compile: Compile denoisers, guides and time predictors by ``torch.compile``, at their first pass.
        device: Device to sample on.

    Raises:
        ValueError: If a setting is unknown or impossible on the device; begins with its name.
    """

    def __init__(self, precision: Precision, compile: bool, device: torch.device) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if not isinstance(compile, bool):
            raise ValueError(f"compile must be true or false, got {compile!r}")
        if precision == "16-mixed" and device.type == "cpu":
            raise ValueError("precision 16-mixed is impractically slow on a CPU; choose bf16-mixed, 32-true or a GPU")
        self._type = _TYPES.get(precision)
        self._compile = compile
        self._device = device
        # With each network, whose number another could take otherwise.
        self._forwards: dict[int, tuple[nn.Module, Callable[..., Any]]] = {}

    @contextmanager
    def active(self, denoisers: Iterable[nn.Module], others: Iterable[nn.Module]) -> Iterator[None]:
        """Let these networks compute so for a while.

        Args:
            denoisers: Networks of denoisers.
            others: Guides and networks of noisy samples.

        Raises:
            ValueError: If a network cannot be compiled.
        """
        chosen: dict[int, tuple[nn.Module, torch.dtype | None]] = {}
        if self._compile:
            chosen |= {id(network): (network, None) for network in others}
        chosen |= {id(network): (network, self._type) for network in denoisers if self._compile or self._type}
        before = {key: vars(network).get("forward") for key, (network, _) in chosen.items()}
        try:
            for key, (network, kind) in chosen.items():
                if key not in self._forwards:
                    self._forwards[key] = network, self._accelerated(network.forward, kind)
                vars(network)["forward"] = self._forwards[key][1]
            with naming_the_compiler("compile is true", "set it to false") if self._compile else nullcontext():
                yield
        finally:
            for key, (network, _) in chosen.items():
                vars(network).pop("forward", None)
                if before[key] is not None:
                    vars(network)["forward"] = before[key]

    def _accelerated(self, forward: Callable[..., Any], kind: torch.dtype | None) -> Callable[..., Any]:
        if self._compile:
            forward = torch.compile(forward)
        return forward if kind is None else _Autocast(forward, self._device.type, kind)


class _Autocast:
    """A network's ``forward`` under autocast, whose output has the type of its samples again."""

    def __init__(self, forward: Callable[..., Any], device: str, kind: torch.dtype) -> None:
        self._forward, self._device, self._kind = forward, device, kind

    def __call__(self, x: Tensor, *args: Any, **inputs: Any) -> Tensor:
        with torch.autocast(self._device, self._kind):
            output = self._forward(x, *args, **inputs)
        return (output if isinstance(output, Tensor) else output.sample).to(x.dtype)
