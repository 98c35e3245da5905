"""The published UNet of guided-diffusion (Dhariwal and Nichol 2021), from its weights by name, in float64.

Written from the architecture: a list of operations for each block, and functions of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPS = 32


@dataclass
class OpenAIUNetReference:
    """A randomly initialised UNet.

    Args:
        base: Width that ``multipliers`` multiply.
        multipliers: Width of each level.
        layers: Residual blocks of each level.
        attention: Downsampling rates with attention.
        scale_shift: The timestep scales and shifts the second norm, instead of being added before it.
        residual_resampling: Residual blocks change the resolution, instead of convolutions.
        head_channels: Width of one attention head; None for ``heads``.
        heads: Attention heads of every level.
        heads_first: Queries, keys and values lie together per head (the legacy order).
        out_channels: 6 with a learned variance.
        num_classes: Classes to be conditioned on.
    """

    base: int = 32
    multipliers: Sequence[float] = (1, 2, 2)
    layers: int = 1
    attention: Sequence[int] = (2, 4)
    scale_shift: bool = True
    residual_resampling: bool = True
    head_channels: int | None = 16
    heads: int = 4
    heads_first: bool = True
    out_channels: int = 6
    num_classes: int | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = torch.Generator().manual_seed(0)
        self.down: list[list[tuple[str, str]]] = []
        self.up: list[list[tuple[str, str]]] = []
        self._linear("time_embed.0", 4 * self.base, self.base)
        self._linear("time_embed.2", 4 * self.base, 4 * self.base)
        if self.num_classes is not None:
            self.weights["label_emb.weight"] = self._normal(self.num_classes, 4 * self.base)
        width, skips = int(self.multipliers[0] * self.base), []
        self._conv("input_blocks.0.0", width, 3)
        self.down.append([("conv", "input_blocks.0.0")])
        skips.append(width)
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(self.layers):
                block = f"input_blocks.{len(self.down)}"
                width = self._residual(f"{block}.0", width, int(multiplier * self.base))
                self.down.append([("residual", f"{block}.0"), *self._attention(f"{block}.1", width, 2**level)])
                skips.append(width)
            if level < len(self.multipliers) - 1:
                self.down.append([self._resampling(f"input_blocks.{len(self.down)}.0", width, "down", ".op")])
                skips.append(width)
        self._residual("middle_block.0", width, width)
        self._attention("middle_block.1", width, self.attention[0])
        self._residual("middle_block.2", width, width)
        self.middle = [(k, f"middle_block.{i}") for i, k in enumerate(("residual", "attention", "residual"))]
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.layers + 1):
                block = f"output_blocks.{len(self.up)}"
                width = self._residual(f"{block}.0", width + skips.pop(), int(multiplier * self.base))
                parts = [("residual", f"{block}.0"), *self._attention(f"{block}.1", width, 2**level)]
                if level and i == self.layers:
                    parts.append(self._resampling(f"{block}.{len(parts)}", width, "up", ".conv"))
                self.up.append(parts)
        self._norm("out.0", width)
        self._conv("out.2", self.out_channels, width)

    def __call__(self, x: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The output for ``x [B, 3, H, W]`` at ``timesteps [B]``."""
        half = self.base // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half)
        angles = timesteps[:, None].double() * rates
        time = self._affine("time_embed.0", torch.cat((angles.cos(), angles.sin()), 1))
        time = self._affine("time_embed.2", F.silu(time))
        if labels is not None:
            time = time + self.weights["label_emb.weight"][labels]
        skips = []
        for parts in self.down:
            x = self._run(parts, x, time)
            skips.append(x)
        x = self._run(self.middle, x, time)
        for parts in self.up:
            x = self._run(parts, torch.cat((x, skips.pop()), 1), time)
        return self._convolved("out.2", F.silu(self._normed("out.0", x)))

    def _run(self, parts: Sequence[tuple[str, str]], x: Tensor, time: Tensor) -> Tensor:
        for kind, name in parts:
            if kind == "conv":
                x = self._convolved(name, x)
            elif kind == "attention":
                x = self._attended(name, x)
            elif kind.startswith("residual"):
                x = self._residual_output(name, x, time, kind)
            elif kind == "down":
                x = self._convolved(name, x, stride=2)
            else:
                x = self._convolved(name, F.interpolate(x, scale_factor=2, mode="nearest"))
        return x

    def _residual_output(self, name: str, x: Tensor, time: Tensor, kind: str) -> Tensor:
        hidden = F.silu(self._normed(f"{name}.in_layers.0", x))
        if kind == "residual down":
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        elif kind == "residual up":
            hidden, x = (F.interpolate(h, scale_factor=2, mode="nearest") for h in (hidden, x))
        hidden = self._convolved(f"{name}.in_layers.2", hidden)
        told = self._affine(f"{name}.emb_layers.1", F.silu(time))[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, 1)
            hidden = self._normed(f"{name}.out_layers.0", hidden) * (1 + scale) + shift
        else:
            hidden = self._normed(f"{name}.out_layers.0", hidden + told)
        skip = f"{name}.skip_connection"
        x = self._convolved(skip, x) if f"{skip}.weight" in self.weights else x
        return x + self._convolved(f"{name}.out_layers.3", F.silu(hidden))

    def _attended(self, name: str, x: Tensor) -> Tensor:
        width = x.shape[1]
        heads = self.heads if self.head_channels is None else width // self.head_channels
        flat = self._normed(f"{name}.norm", x).flatten(2)
        joint = self.weights[f"{name}.qkv.weight"][..., 0] @ flat + self.weights[f"{name}.qkv.bias"][:, None]
        order = (heads, 3, width // heads) if self.heads_first else (3, heads, width // heads)
        q, k, v = joint.unflatten(1, order).movedim(2 if self.heads_first else 1, 0)
        mixed = (q.mT @ k / math.sqrt(width // heads)).softmax(-1) @ v.mT
        mixed = mixed.mT.flatten(1, 2)
        mixed = self.weights[f"{name}.proj_out.weight"][..., 0] @ mixed + self.weights[f"{name}.proj_out.bias"][:, None]
        return x + mixed.view_as(x)

    def _normed(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, GROUPS, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _convolved(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def _affine(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _normal(self, *shape: int) -> Tensor:
        # Exact in float32, so that a saved file loses nothing.
        return torch.randn(*shape, generator=self._random).double() / math.sqrt(math.prod(shape[1:]) or 1)

    def _linear(self, name: str, outputs: int, inputs: int) -> None:
        self.weights |= {f"{name}.weight": self._normal(outputs, inputs), f"{name}.bias": self._normal(outputs)}

    def _conv(self, name: str, outputs: int, inputs: int, size: int = 3) -> None:
        weight = self._normal(outputs, inputs, size, size)
        self.weights |= {f"{name}.weight": weight, f"{name}.bias": self._normal(outputs)}

    def _norm(self, name: str, width: int) -> None:
        self.weights |= {f"{name}.weight": 1 + self._normal(width) / 4, f"{name}.bias": self._normal(width)}

    def _residual(self, name: str, inputs: int, outputs: int) -> int:
        self._norm(f"{name}.in_layers.0", inputs)
        self._conv(f"{name}.in_layers.2", outputs, inputs)
        self._linear(f"{name}.emb_layers.1", (1 + self.scale_shift) * outputs, 4 * self.base)
        self._norm(f"{name}.out_layers.0", outputs)
        self._conv(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            self._conv(f"{name}.skip_connection", outputs, inputs, 1)
        return outputs

    def _attention(self, name: str, width: int, rate: int) -> Iterator[tuple[str, str]]:
        if rate not in self.attention:
            return iter(())
        self._norm(f"{name}.norm", width)
        for part, outputs in (("qkv", 3 * width), ("proj_out", width)):
            self.weights[f"{name}.{part}.weight"] = self._normal(outputs, width, 1)
            self.weights[f"{name}.{part}.bias"] = self._normal(outputs)
        return iter([("attention", name)])

    def _resampling(self, name: str, width: int, direction: str, convolution: str) -> tuple[str, str]:
        if self.residual_resampling:
            self._residual(name, width, width)
            return f"residual {direction}", name
        self._conv(f"{name}{convolution}", width, width)
        return direction, f"{name}{convolution}"
