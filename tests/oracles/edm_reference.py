"""EDM's network and noise schedule (Hoogeboom et al. 2022, App. B), by its names of weights, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def edm_weights(features: int, context: int, width: int, blocks: int, steps: int, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of EDM's ``EnVariationalDiffusion`` with the schedule ``polynomial_2``."""
    random = torch.Generator().manual_seed(seed)
    told = features + 1 + context  # the timestep comes after the features, the context last
    weights = {"buffer": torch.zeros(1), "gamma.gamma": torch.from_numpy(polynomial_gamma(steps)).float()}

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        name = f"dynamics.egnn.{name}"
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, generator=random) / math.sqrt(inputs)
        if bias:
            weights[f"{name}.bias"] = torch.randn(outputs, generator=random)

    linear("embedding", width, told)
    linear("embedding_out", told, width)
    for i in range(blocks):
        linear(f"e_block_{i}.gcl_0.edge_mlp.0", width, 2 * width + 2)
        linear(f"e_block_{i}.gcl_0.edge_mlp.2", width, width)
        linear(f"e_block_{i}.gcl_0.node_mlp.0", width, 2 * width)
        linear(f"e_block_{i}.gcl_0.node_mlp.2", width, width)
        linear(f"e_block_{i}.gcl_0.att_mlp.0", 1, width)
        linear(f"e_block_{i}.gcl_equiv.coord_mlp.0", width, 2 * width + 2)
        linear(f"e_block_{i}.gcl_equiv.coord_mlp.2", width, width)
        linear(f"e_block_{i}.gcl_equiv.coord_mlp.4", 1, width, bias=False)
        weights[f"dynamics.egnn.e_block_{i}.gcl_equiv.coord_mlp.4.weight"] /= 20
    return weights


def polynomial_gamma(steps: int, precision: float = 1e-5, power: float = 2.0) -> np.ndarray:
    """``gamma = -log(alpha^2 / sigma^2)`` at t = 0, 1/T, ..., 1, ``[T + 1]``."""
    kept = [1.0]
    signal = [(1 - (i / steps) ** power) ** 2 for i in range(steps + 1)]
    for before, after in pairwise(signal):
        kept.append(kept[-1] * min(1.0, max(0.001, after / before)))
    squared = (1 - 2 * precision) * np.array(kept) + precision
    return -(np.log(squared) - np.log(1 - squared))


def edm_noise(
    weights: dict[str, Tensor], x: Tensor, t: float, context: Tensor | None = None, divisor: float = 1.0
) -> Tensor:
    """The noise ``[n, 3 + F]`` that EDM's network sees in one molecule ``x [n, 3 + F]`` at time ``t`` in [0, 1]."""
    w = {name.removeprefix("dynamics.egnn."): value.double() for name, value in weights.items()}

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, w[f"{name}.weight"], w.get(f"{name}.bias"))

    count = len(x)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    position, told = x[:, :3], [x[:, 3:], x.new_full((count, 1), t)]
    if context is not None:
        told.append(context.expand(count, -1))
    h = linear("embedding", torch.cat(told, 1))
    first = {(i, j): (position[i] - position[j]).square().sum() for i, j in pairs}
    for k in range(sum(name.endswith("att_mlp.0.bias") for name in w)):
        gcl, equiv = f"e_block_{k}.gcl_0", f"e_block_{k}.gcl_equiv"
        edges = {(i, j): torch.stack(((position[i] - position[j]).square().sum(), first[i, j])) for i, j in pairs}
        received = torch.zeros_like(h)
        for i, j in pairs:
            message = F.silu(linear(f"{gcl}.edge_mlp.0", torch.cat((h[i], h[j], edges[i, j]))))
            message = F.silu(linear(f"{gcl}.edge_mlp.2", message))
            received[i] += message * linear(f"{gcl}.att_mlp.0", message).sigmoid() / divisor
        update = F.silu(linear(f"{gcl}.node_mlp.0", torch.cat((h, received), 1)))
        h = h + linear(f"{gcl}.node_mlp.2", update)
        moved = position.clone()
        for i, j in pairs:
            weight = F.silu(linear(f"{equiv}.coord_mlp.0", torch.cat((h[i], h[j], edges[i, j]))))
            weight = linear(f"{equiv}.coord_mlp.4", F.silu(linear(f"{equiv}.coord_mlp.2", weight))).tanh()
            direction = (position[i] - position[j]) / ((edges[i, j][0] + 1e-8).sqrt() + 1)
            moved[i] += 15 * direction * weight.squeeze() / divisor
        position = moved
    velocity = position - x[:, :3]
    columns = x.shape[1] - 3
    return torch.cat((velocity - velocity.mean(0), linear("embedding_out", h)[:, :columns]), 1)
