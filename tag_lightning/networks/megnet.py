"""MEGNet, the published graph network of QM9's properties: a judge that was trained elsewhere, on other code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tag_lightning.networks.egnn import pair_mask, squared_distances

# Row of the published embedding of each element, in the order of the one-hot columns H, C, N, O, F.
_ROWS = (1, 2, 4, 6, 8)
_BASES, _REACH, _WIDTH = 20, 4.0, 0.5
_HIDDEN, _STATE, _QUERY = 64, 32, 16


class ShiftedSoftplus(nn.Module):
    """``softplus(x) - ln 2``."""

    def forward(self, x: Tensor) -> Tensor:
        """The activation, of the shape of ``x``."""
        return nn.functional.softplus(x) - math.log(2)


def _dense(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), ShiftedSoftplus()]
    return nn.Sequential(*layers)


class MEGNetBlock(nn.Module):
    """Updates pairs, then atoms, then the state of the molecule (Chen et al. 2019, Eqs. 1 to 3).

    The last layer of each update is linear, as in the published code: with the paper's activation there, the published
    weights miss alpha by 11 bohr^3 instead of 0.07.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pairs = _dense(4 * _STATE, _HIDDEN, _HIDDEN, _STATE)[:-1]
        self.atoms = _dense(3 * _STATE, _HIDDEN, _HIDDEN, _STATE)[:-1]
        self.state = _dense(3 * _STATE, _HIDDEN, _HIDDEN, _STATE)[:-1]

    def forward(self, v: Tensor, e: Tensor, u: Tensor, real: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Updates of ``v [B, N, 32]``, ``e [B, N, N, 32]``, ``u [B, 32]``; masks ``[B, N, 1]`` and ``[B, N, N, 1]``."""
        atoms = v.shape[1]
        own, other = v[:, :, None].expand(-1, -1, atoms, -1), v[:, None].expand(-1, atoms, -1, -1)
        states = u[:, None, None].expand(-1, atoms, atoms, -1)
        e = self.pairs(torch.cat((own, other, e, states), -1)) * pairs
        received = e.sum(2) / pairs.sum(2).clamp(min=1)
        v = self.atoms(torch.cat((received, v, states[:, 0]), -1)) * real
        mean_e = e.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
        mean_v = v.sum(1) / real.sum(1).clamp(min=1)
        return v, e, self.state(torch.cat((mean_e, mean_v, u), -1))


class Set2Set(nn.Module):
    """Attention over a set in three rounds, whose LSTM forgets its cell between rounds, as the published one does."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Linear(_STATE, _QUERY)
        self.gates = nn.Linear(2 * _QUERY, 4 * _QUERY)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """``[B, 32]`` for the set ``x [B, S, 32]`` with ``present [B, S]``; the read-out of an empty set is zero."""
        memory = self.memory(x)
        query = x.new_zeros(len(x), 2 * _QUERY)
        for _ in range(3):
            # In Keras' order; the forget gate acts on a cell of zeros.
            input_gate, _, cell, output_gate = self.gates(query).chunk(4, -1)
            hidden = _hard_sigmoid(output_gate) * (_hard_sigmoid(input_gate) * cell.tanh()).tanh()
            score = (memory @ hidden[..., None])[..., 0].masked_fill(~present, -torch.inf)
            attention = torch.where(present.any(1, keepdim=True), score, 0).softmax(1) * present
            query = torch.cat((hidden, (attention[..., None] * memory).sum(1)), -1)
        return query


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


class MEGNet(nn.Module):
    """One property of clean molecules by MEGNet (Chen et al. 2019, doi 10.1021/acs.chemmater.9b01294).

    Three blocks on the complete graph with distances in 20 Gaussians, residual sums, and set2set read-outs of atoms and
    pairs. Weights are random; ``load`` reads published ones.

    Attributes:
        mean: Mean of the target, per atom if extensive; a 0-dimensional tensor.
        std: Its standard deviation, likewise.
        extensive: Multiply the output by the number of atoms.
    """

    mean: Tensor
    std: Tensor
    centres: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 16)
        self.first = nn.ModuleList((_dense(16, _HIDDEN, _STATE), _dense(_BASES, _HIDDEN, _STATE)))
        self.first.append(_dense(2, _HIDDEN, _STATE))
        self.blocks = nn.ModuleList(MEGNetBlock() for _ in range(3))
        self.between = nn.ModuleList(nn.ModuleList(_dense(_STATE, _HIDDEN, _STATE) for _ in range(3)) for _ in range(2))
        self.atom_set, self.pair_set = Set2Set(), Set2Set()
        self.head = nn.Sequential(_dense(3 * _STATE, 32, 16), nn.Linear(16, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("centres", torch.linspace(0, _REACH, _BASES), persistent=False)
        self.extensive = False

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The property ``[B]`` of molecules ``x [B, N, 3 + 5]`` (H, C, N, O, F by their largest column).

        A sixth column, the atomic number of ``MoleculeEncoding(charge_scale)``, is ignored.
        """
        if x.shape[-1] - 3 not in (len(_ROWS), len(_ROWS) + 1):
            raise ValueError(f"MEGNet takes one column for each of H, C, N, O, F, got {x.shape[-1] - 3} columns")
        real, pairs = mask[..., None].to(x), pair_mask(mask, x)
        rows = torch.tensor(_ROWS, device=x.device)[x[..., 3 : 3 + len(_ROWS)].argmax(-1)]
        distance = (squared_distances(x[..., :3] * real) + 1e-12).sqrt()
        bases = (-((distance - self.centres) / _WIDTH).square()).exp()
        inputs = (self.embedding(rows), bases, x.new_zeros(len(x), 2))
        v, e, u = (layer(value) for layer, value in zip(self.first, inputs, strict=True))
        sums = v, e, u
        for block, layers in zip(self.blocks, (*self.between, None), strict=True):
            updates = block(v, e, u, real, pairs)
            sums = tuple(total + update for total, update in zip(sums, updates, strict=True))
            if layers is not None:
                v, e, u = (layer(total) for layer, total in zip(layers, sums, strict=True))
        v, e, u = sums
        atoms = self.atom_set(v, mask)
        edges = self.pair_set(e.flatten(1, 2), pairs.flatten(1).bool())
        output = self.head(torch.cat((atoms, edges, u), -1))[:, 0] * self.std + self.mean
        return output * mask.sum(1) if self.extensive else output

    def load(self, path: str | Path) -> MEGNet:
        """Read published weights that were saved as safetensors under their Keras names.

        Raises:
            ValueError: If the file is not one of MEGNet's; names the tensor.
        """
        try:
            with safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.load_state_dict(
                {ours: _taken(tensors, theirs) for ours, theirs in self._names().items()}, strict=False
            )
            self.mean.fill_(float(meta["mean"]))
            self.std.fill_(float(meta["std"]))
            self.extensive = meta["is_intensive"] == "False"
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{path} is not a published MEGNet network of QM9 as safetensors ({reason}); give the file of one "
                "property"
            ) from error
        return self

    def _names(self) -> dict[str, str]:
        """The published name of every weight."""
        names = {"embedding.weight": "embedding_1.embeddings"}
        groups = [self.first, *self.between]
        for number, (group, place) in enumerate(product(range(len(groups)), range(3))):
            prefix = f"first.{place}" if group == 0 else f"between.{group - 1}.{place}"
            for layer in range(2):
                names |= _pair(f"{prefix}.{2 * layer}", f"dense_{2 * number + layer + 1}", ".kernel", ".bias")
        for block in range(3):
            for ours, theirs in (("pairs", "e"), ("atoms", "v"), ("state", "u")):
                for layer in range(3):
                    base = f"meg_net_layer_{block + 1}"
                    weight, bias = f".weight_{theirs}_{layer}", f".bias_{theirs}_{layer}"
                    names |= _pair(f"blocks.{block}.{ours}.{2 * layer}", base, weight, bias)
        for ours, theirs in (("atom_set", "set2_set_1"), ("pair_set", "set2_set_2")):
            names |= _pair(f"{ours}.memory", theirs, ".x_to_m_weight", ".x_to_m_bias")
            names |= _pair(f"{ours}.gates", theirs, ".recurrent_kernel", ".recurrent_bias")
        for ours, number in (("head.0.0", 19), ("head.0.2", 20), ("head.1", 21)):
            names |= _pair(ours, f"dense_{number}", ".kernel", ".bias")
        return names


def _pair(ours: str, theirs: str, weight: str, bias: str) -> dict[str, str]:
    return {f"{ours}.weight": theirs + weight, f"{ours}.bias": theirs + bias}


def _taken(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise KeyError(f"it has no tensor {name}")
    # Keras multiplies from the right.
    return tensors[name] if name.endswith("embeddings") or tensors[name].ndim == 1 else tensors[name].T


class MEGNetJudge(nn.Module):
    """Several published MEGNet networks as one judge of molecules with the elements H, C, N, O, F.

    They reach the accuracy of DFT on QM9 (alpha 0.04 bohr^3) and were trained by others, so a gradient that fools the
    networks of this package need not fool them. They score and never guide.

    Args:
        files: Path of the safetensors file of each property, by its name in ``tag_lightning.chemistry.units``.

    Attributes:
        properties: The names of ``files``, in their order.

    Raises:
        ValueError: If ``files`` is empty, or a file is not such a network.
    """

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__()
        if not files:
            raise ValueError("files is empty; give the path of at least one property, as in {alpha: alpha.safetensors}")
        self.properties = tuple(files)
        self.networks = nn.ModuleList(MEGNet().load(path) for path in files.values())
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Properties ``[B, K]`` in the files' units, of molecules ``x [B, N, 3 + 5]`` with ``mask [B, N]``."""
        return torch.stack([network(x, mask) for network in self.networks], 1)
