"""Equivariant graph networks on centred, masked point clouds, dense over all pairs of atoms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class Pairs(NamedTuple):
    """Quantities of atom pairs that all blocks share.

    Attributes:
        mask: 1 for pairs of two different real atoms, else 0, ``[B, N, N, 1]``.
        initial: Squared distances at the network's input, ``[B, N, N, 1]``.
    """

    mask: Tensor
    initial: Tensor


class PairMLP(nn.Module):
    """``SiLU(W2 SiLU(W1 [h_i, h_j, d_ij^2, d_ij^2 at the input]))`` for every pair.

    ``W1`` is applied to the atoms before they are paired, which costs N instead of N^2 products and never
    stores the concatenation.

    Args:
        width: Width of ``h`` and of the messages.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.receiver = nn.Linear(width, width)
        self.sender = nn.Linear(width, width, bias=False)
        self.distance = nn.Linear(2, width, bias=False)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, squared: Tensor, pairs: Pairs) -> Tensor:
        """Messages ``[B, N, N, W]`` to atom i (dimension 1) from atom j, for ``h [B, N, W]``."""
        edges = self.distance(torch.cat((squared, pairs.initial), -1))
        hidden = nn.functional.silu(edges + self.receiver(h)[:, :, None] + self.sender(h)[:, None])
        return nn.functional.silu(self.second(hidden))


class InvariantLayer(nn.Module):
    """One round of messages with a sigmoid gate, summed over the senders (Hoogeboom et al. 2022, App. B).

    Args:
        width: Width of ``h``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = PairMLP(width)
        self.gate = nn.Linear(width, 1)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, squared: Tensor, pairs: Pairs) -> Tensor:
        """The updated ``h [B, N, W]``."""
        message = self.message(h, squared, pairs)
        gate = self.gate(message).sigmoid() * pairs.mask
        # A matrix product sums the gated messages without storing them.
        received = (gate.transpose(-1, -2) @ message).squeeze(-2)
        return h + self.node(torch.cat((h, received), -1))


class EquivariantLayer(nn.Module):
    """Moves the atoms along their mutual directions.

    Args:
        width: Width of ``h``.
        longest: Largest displacement of one atom by another, in angstrom.
    """

    def __init__(self, width: int, longest: float) -> None:
        super().__init__()
        self.longest = longest
        self.message = PairMLP(width)
        self.weight = nn.Linear(width, 1, bias=False)
        nn.init.xavier_uniform_(self.weight.weight, gain=0.001)

    def forward(self, h: Tensor, x: Tensor, squared: Tensor, pairs: Pairs) -> Tensor:
        """The moved positions ``[B, N, 3]``."""
        weight = self.longest * self.weight(self.message(h, squared, pairs)).tanh()
        factor = (weight * pairs.mask / ((squared + 1e-8).sqrt() + 1)).squeeze(-1)
        # sum_j (x_i - x_j) f_ij without the [B, N, N, 3] differences.
        return x + x * factor.sum(2, keepdim=True) - factor @ x


class EGNNDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """Predicts the noise in molecules, equivariantly: EGNN of Hoogeboom et al. 2022 (arXiv 2203.17003, App. B).

    The defaults are those of the published QM9 model. The output for a molecule depends neither on its padding nor
    on the other molecules of the batch.

    Args:
        num_features: F, feature columns beside the three of the position.
        num_timesteps: T, which scales the timestep to (0, 1].
        width: Width of the atoms' embeddings.
        num_blocks: Number of blocks, each an invariant and an equivariant layer.
        longest: Largest displacement of one atom by another in one block, in angstrom. The published 15 needs a
            learning rate of about 1e-4; smaller values allow higher rates.
    """

    @register_to_config
    def __init__(
        self,
        num_features: int = 5,
        num_timesteps: int = 1000,
        width: int = 256,
        num_blocks: int = 9,
        longest: float = 15.0,
    ) -> None:
        super().__init__()
        self.num_timesteps = num_timesteps
        self.embedding = nn.Linear(num_features + 1, width)
        self.invariant = nn.ModuleList(InvariantLayer(width) for _ in range(num_blocks))
        self.equivariant = nn.ModuleList(EquivariantLayer(width, longest) for _ in range(num_blocks))
        self.readout = nn.Linear(width, num_features)

    def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        """The noise ``[B, N, 3 + F]`` in ``x [B, N, 3 + F]``, positions in angstrom and centred, then features.

        Args:
            x: Noisy molecules, zero at padding.
            timesteps: ``[B]`` in 0 .. T-1.
            mask: True at real atoms, ``[B, N]``.
        """
        real = mask[..., None].to(x)
        start, features = x[..., :3] * real, x[..., 3:] * real
        time = ((timesteps + 1) / self.num_timesteps).to(x)[:, None, None].expand(*mask.shape, 1)
        h = self.embedding(torch.cat((features, time), -1))
        position = start
        pairs = Pairs(pair_mask(mask, x), squared_distances(start))
        squared = pairs.initial
        for invariant, equivariant in zip(self.invariant, self.equivariant, strict=True):
            h = invariant(h, squared, pairs)
            position = equivariant(h, position, squared, pairs)
            squared = squared_distances(position)
        velocity = (position - start) * real
        velocity = velocity - velocity.sum(1, keepdim=True) / real.sum(1, keepdim=True) * real
        return torch.cat((velocity, self.readout(h) * real), -1)


class InvariantEncoder(nn.Module):
    """Embeds every atom, invariant to rotation and translation: the trunk of all EGNN predictors.

    Args:
        num_features: F, feature columns beside the three of the position.
        width: Width of the embeddings.
        num_layers: Number of message-passing layers.
    """

    def __init__(self, num_features: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(num_features, width)
        self.layers = nn.ModuleList(InvariantLayer(width) for _ in range(num_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Embeddings ``[B, N, W]``, zero at padding, of molecules ``x [B, N, 3 + F]`` and ``mask [B, N]``."""
        real = mask[..., None].to(x)
        squared = squared_distances(x[..., :3] * real)
        pairs = Pairs(pair_mask(mask, x), squared)
        h = self.embedding(x[..., 3:] * real)
        for layer in self.layers:
            h = layer(h, squared, pairs)
        return h * real


def squared_distances(positions: Tensor) -> Tensor:
    """``[B, N, N, 1]`` for ``positions [B, N, 3]``, from differences: the expanded square cancels badly."""
    return (positions[:, :, None] - positions[:, None]).square().sum(-1, keepdim=True)


def pair_mask(mask: Tensor, like: Tensor) -> Tensor:
    """1 for pairs of two different real atoms, ``[B, N, N, 1]``, for ``mask [B, N]``."""
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return (mask[:, :, None] & mask[:, None] & ~itself)[..., None].to(like)
