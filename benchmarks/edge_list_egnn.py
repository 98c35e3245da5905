"""The published EGNN in its plain form, edge lists and scatter sums, to compare the dense one with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.networks.egnn import EGNNDenoiser, PairMLP


class EdgeListEGNN(nn.Module):
    """Computes what an ``EGNNDenoiser`` computes, with its very parameters, edge by edge.

    Messages are made from the concatenation ``[h_i, h_j, d_ij^2, d_ij^2 at the input]`` of every edge and summed
    by ``index_add`` (Hoogeboom et al. 2022, App. B).

    Args:
        dense: Owner of the parameters.
        padded: Make the edges of all pairs of the padded batch and multiply their messages by a mask, as EDM's code
            does, in place of the edges of real pairs alone.
    """

    def __init__(self, dense: EGNNDenoiser, padded: bool = False) -> None:
        super().__init__()
        self.dense = dense
        self.padded = padded

    def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        """As ``EGNNDenoiser.forward``."""
        batch, points, _ = x.shape
        receiver, sender, between_real = _edges(mask, self.padded)
        real = mask.reshape(-1, 1).to(x)
        flat = x.reshape(batch * points, -1) * real
        time = ((timesteps + 1) / self.dense.num_timesteps).to(x).repeat_interleave(points)[:, None]
        h = self.dense.embedding(torch.cat((flat[:, 3:], time), 1))
        start = position = flat[:, :3]
        initial = _squared(start, receiver, sender)
        blocks: Any = zip(self.dense.invariant, self.dense.equivariant, strict=True)
        for invariant, equivariant in blocks:
            squared = _squared(position, receiver, sender)
            message = _message(invariant.message, h, squared, initial, receiver, sender)
            message = message * invariant.gate(message).sigmoid() * between_real
            received = torch.zeros_like(h).index_add(0, receiver, message)
            h = h + invariant.node(torch.cat((h, received), 1))
            message = _message(equivariant.message, h, squared, initial, receiver, sender)
            weight = equivariant.longest * equivariant.weight(message).tanh() * between_real
            direction = (position[receiver] - position[sender]) / ((squared + 1e-8).sqrt() + 1)
            position = position.index_add(0, receiver, direction * weight)
        velocity = ((position - start) * real).reshape(batch, points, 3)
        real = real.reshape(batch, points, 1)
        velocity = velocity - velocity.sum(1, keepdim=True) / real.sum(1, keepdim=True) * real
        return torch.cat((velocity, self.dense.readout(h).reshape(batch, points, -1) * real), -1)


def _edges(mask: Tensor, padded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Receivers and senders ``[E]`` of pairs of points of one cloud, as indices into ``[B N]``.

    Last comes 1 for those of different real points and 0 for others, ``[E, 1]``.
    """
    points = mask.shape[1]
    itself = torch.eye(points, dtype=torch.bool, device=mask.device)
    real = mask[:, :, None] & mask[:, None] & ~itself
    made = torch.ones_like(real) if padded else real
    cloud, first, second = made.nonzero(as_tuple=True)
    return cloud * points + first, cloud * points + second, real[made][:, None].float()


def _squared(position: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
    return (position[receiver] - position[sender]).square().sum(1, keepdim=True)


def _message(mlp: PairMLP, h: Tensor, squared: Tensor, initial: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
    edges = torch.cat((h[receiver], h[sender], squared, initial), 1)
    weight = torch.cat((mlp.receiver.weight, mlp.sender.weight, mlp.distance.weight), 1)
    hidden = nn.functional.silu(nn.functional.linear(edges, weight, mlp.receiver.bias))
    return nn.functional.silu(mlp.second(hidden))
