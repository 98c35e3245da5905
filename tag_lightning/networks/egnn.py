"""Equivariant graph networks on centred, masked point clouds, dense over all pairs of atoms."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from tag_lightning.diffusion.conditioning import CONTEXT_SPLIT_KEY
from tag_lightning.networks.quantity_units import mean_and_spread


class PairMLP(nn.Module):
    """``SiLU(W2 SiLU(W1 [h_i, h_j, e_ij]))`` for every pair.

    ``W1`` is applied to the atoms before they are paired, which costs N instead of N^2 products and never
    stores the concatenation.

    Args:
        width: Width of ``h`` and of the messages.
        num_edge_features: E, width of ``e_ij``.
    """

    def __init__(self, width: int, num_edge_features: int = 2) -> None:
        super().__init__()
        self.receiver = nn.Linear(width, width)
        self.sender = nn.Linear(width, width, bias=False)
        self.distance = nn.Linear(num_edge_features, width, bias=False)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        """Messages ``[B, N, N, W]`` to atom i (dimension 1) from j, for ``h [B, N, W]`` and ``edges [B, N, N, E]``."""
        hidden = self.distance(edges) + self.receiver(h)[:, :, None] + self.sender(h)[:, None]
        return nn.functional.silu(self.second(nn.functional.silu(hidden)))


class InvariantLayer(nn.Module):
    """One round of messages with a sigmoid gate, summed over the senders (Hoogeboom et al. 2022, App. B).

    Args:
        width: Width of ``h``.
        num_edge_features: E, see ``PairMLP``.
    """

    def __init__(self, width: int, num_edge_features: int = 2) -> None:
        super().__init__()
        self.message = PairMLP(width, num_edge_features)
        self.gate = nn.Linear(width, 1)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, edges: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The updated ``h [B, N, W]`` and the messages ``[B, N, N, W]``, for the pair mask ``pairs [B, N, N, 1]``."""
        message = self.message(h, edges)
        gate = self.gate(message).sigmoid() * pairs
        # A matrix product sums the gated messages without storing them.
        received = (gate.to(message).transpose(-1, -2) @ message).squeeze(-2)
        return h + self.node(torch.cat((h, received.to(h)), -1)), message


class EquivariantLayer(nn.Module):
    """Moves the atoms along their mutual directions.

    Args:
        width: Width of ``h``.
        longest: Largest displacement of one atom by another, in angstrom.
        num_edge_features: E of messages of its own, see ``PairMLP``; None for a layer that is given others' messages.
    """

    def __init__(self, width: int, longest: float, num_edge_features: int | None = 2) -> None:
        super().__init__()
        self.longest = longest
        self.message = None if num_edge_features is None else PairMLP(width, num_edge_features)
        self.weight = nn.Linear(width, 1, bias=False)
        nn.init.xavier_uniform_(self.weight.weight, gain=0.001)

    def forward(self, x: Tensor, h: Tensor, edges: Tensor, message: Tensor, squared: Tensor, pairs: Tensor) -> Tensor:
        """The moved positions ``[B, N, 3]``.

        Args:
            x: Positions in angstrom, ``[B, N, 3]``.
            h: Embeddings of the atoms ``[B, N, W]``, for messages of its own.
            edges: Edge features ``[B, N, N, E]``, likewise.
            message: The invariant layer's messages ``[B, N, N, W]``, for a layer without messages of its own.
            squared: Squared distances, ``[B, N, N, 1]``.
            pairs: Pair mask, ``[B, N, N, 1]``.
        """
        if self.message is not None:
            message = self.message(h, edges)
        weight = self.longest * self.weight(message).to(x).tanh()
        factor = (weight * pairs / ((squared + 1e-8).sqrt() + 1)).squeeze(-1)
        # Mixed precision must not round positions: the differences of two of them count.
        with torch.autocast(x.device.type, enabled=False):
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
        num_bases: Gaussian radial bases of the distances beside the published squared distances, see ``radial_bases``.
        shared_messages: Let the coordinates follow the messages of the invariant layer, as in the first EGNN (Satorras
            et al. 2021, Eq. 4), for half the cost of a block; False has messages of their own, as published.
        time_offset: The network is told ``(timestep + time_offset) / num_timesteps``; 0 for a schedule that begins with
            EDM's z_0, see ``PolynomialSchedule``.
        num_context: K, number of properties that the network is conditioned on. Every atom is told those of its
            molecule in units of their spread, as further inputs beside its features (Hoogeboom et al. 2022, Section
            3.3), and which of them are known.

    Attributes:
        context_mean: Mean of each property over the training data, ``[K]``; only with ``num_context``.
        context_spread: Mean absolute deviation of each property, ``[K]``; likewise.

    Raises:
        ValueError: If a size is below 1.
    """

    context_mean: Tensor
    context_spread: Tensor

    @register_to_config
    def __init__(
        self,
        num_features: int = 5,
        num_timesteps: int = 1000,
        width: int = 256,
        num_blocks: int = 9,
        longest: float = 15.0,
        num_bases: int = 0,
        shared_messages: bool = False,
        time_offset: int = 1,
        num_context: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"num_features": num_features, "num_timesteps": num_timesteps, "width": width, "num_blocks": num_blocks}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.num_timesteps = num_timesteps
        self.time_offset = time_offset
        self.num_context = num_context
        if num_context:
            self.register_buffer("context_mean", torch.zeros(num_context))
            self.register_buffer("context_spread", torch.ones(num_context))
        self.num_bases = num_bases
        edges = 2 + 2 * num_bases
        self.embedding = nn.Linear(num_features + 1 + 2 * num_context, width)
        self.invariant = nn.ModuleList(InvariantLayer(width, edges) for _ in range(num_blocks))
        self.equivariant = nn.ModuleList(
            EquivariantLayer(width, longest, None if shared_messages else edges) for _ in range(num_blocks)
        )
        self.readout = nn.Linear(width, num_features)

    def measure_context(self, values: Tensor, name: str = "the property") -> None:
        """Take mean and spread of a single property from its training ``values [N]``, but for those not finite.

        Raises:
            ValueError: If all of them are the same; calls the property ``name``.
        """
        mean, spread = mean_and_spread(values[values.isfinite()][:, None], [name])
        self.context_mean.copy_(mean)
        self.context_spread.copy_(spread)
        if CONTEXT_SPLIT_KEY in self.config:
            self.register_to_config(**{CONTEXT_SPLIT_KEY: None})

    def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """The noise ``[B, N, 3 + F]`` in ``x [B, N, 3 + F]``, positions in angstrom and centred, then features.

        Args:
            x: Noisy molecules, zero at padding.
            timesteps: ``[B]`` in 0 .. T-1.
            mask: True at real atoms, ``[B, N]``.
            context: Properties to condition on, in their own units, NaN for unknown ones: ``[B, K]``, or ``[B]`` if K
                is 1. None if ``num_context`` is 0.

        Raises:
            ValueError: If ``context`` is not what the network is conditioned on.
        """
        real = mask[..., None].to(x)
        start, features = x[..., :3] * real, x[..., 3:] * real
        time = ((timesteps + self.time_offset) / self.num_timesteps).to(x)[:, None]
        time_and_context = torch.cat((time, *self._context_columns(context)), -1).to(x)
        h = self.embedding(torch.cat((features, time_and_context[:, None].expand(*mask.shape, -1)), -1))
        position, pairs = start, pair_mask(mask, x)
        squared = initial = squared_distances(start)
        at_input = radial_bases(initial, self.num_bases)
        for invariant, equivariant in zip(self.invariant, self.equivariant, strict=True):
            edges = torch.cat((squared, initial, radial_bases(squared, self.num_bases), at_input), -1)
            h, message = invariant(h, edges, pairs)
            position = equivariant(position, h, edges, message, squared, pairs)
            squared = squared_distances(position)
        velocity = (position - start) * real
        velocity = velocity - velocity.sum(1, keepdim=True) / real.sum(1, keepdim=True) * real
        return torch.cat((velocity, self.readout(h) * real), -1)

    def _context_columns(self, context: Tensor | None) -> list[Tensor]:
        """The standardised properties, 0 where unknown, and which are known: ``[B, K]`` each; none for K = 0."""
        given = 0 if context is None else context.shape[1:].numel()
        if given != self.num_context:
            raise ValueError(
                f"this denoiser is conditioned on {self.num_context} properties, got a context of {given}; pass "
                "context [B, K], NaN for unknown properties"
            )
        if context is None or not given:
            return []
        standardised = (context.reshape(len(context), -1) - self.context_mean) / self.context_spread
        known = standardised.isfinite()
        return [torch.where(known, standardised, 0.0), known.to(standardised)]


class InvariantEncoder(nn.Module):
    """Embeds every atom, invariant to rotation and translation: the trunk of all EGNN predictors.

    Args:
        num_features: F, feature columns beside the three of the position.
        width: Width of the embeddings.
        num_layers: Number of message-passing layers.
        num_bases: Gaussian radial bases of the distances beside the squared distances, see ``radial_bases``.
    """

    def __init__(self, num_features: int, width: int, num_layers: int, num_bases: int = 0) -> None:
        super().__init__()
        self.num_bases = num_bases
        self.embedding = nn.Linear(num_features, width)
        self.layers = nn.ModuleList(InvariantLayer(width, 2 + num_bases) for _ in range(num_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Embeddings ``[B, N, W]``, zero at padding, of molecules ``x [B, N, 3 + F]`` and ``mask [B, N]``."""
        real = mask[..., None].to(x)
        squared = squared_distances(x[..., :3] * real)
        # The squared distance comes twice: at the input and now, which differ in the denoiser only.
        edges = torch.cat((squared, squared, radial_bases(squared, self.num_bases)), -1)
        pairs, h = pair_mask(mask, x), self.embedding(x[..., 3:] * real)
        for layer in self.layers:
            h, _ = layer(h, edges, pairs)
        return h * real


def squared_distances(positions: Tensor) -> Tensor:
    """``[B, N, N, 1]`` for ``positions [B, N, 3]``, from differences: the expanded square cancels badly."""
    return (positions[:, :, None] - positions[:, None]).square().sum(-1, keepdim=True)


def radial_bases(squared: Tensor, count: int, reach: float = 4.0) -> Tensor:
    """Gaussians of the distance, ``[..., K]`` for ``squared [..., 1]`` in angstrom^2 and K = ``count``.

    Their centres are even over 0 .. ``reach`` angstrom, one spacing wide: bond lengths fall on steep flanks, whereas a
    squared distance hardly tells 1.4 from 1.5 angstrom.
    """
    if not count:
        return squared[..., :0]
    centres = torch.linspace(0, reach, count, device=squared.device, dtype=squared.dtype)
    spacing = reach / max(1, count - 1)
    return (-0.5 * (((squared + 1e-8).sqrt() - centres) / spacing).square()).exp()


def pair_mask(mask: Tensor, like: Tensor) -> Tensor:
    """1 for pairs of two different real atoms, ``[B, N, N, 1]``, for ``mask [B, N]``."""
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return (mask[:, :, None] & mask[:, None] & ~itself)[..., None].to(like)
