"""Predictors of properties and of the timestep of molecules, invariant to rotation and translation."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from tag_lightning.networks.egnn import InvariantEncoder
from tag_lightning.networks.time_predictor import TimePredictor


@runtime_checkable
class PropertyPredictor(Protocol):
    """A network that predicts properties of clean molecules.

    Attributes:
        properties: Names of the K properties.
    """

    properties: tuple[str, ...]

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        """Properties ``[B, K]`` in their units, of molecules ``x [B, N, 3 + F]`` with ``mask [B, N]``."""


class EGNNPropertyPredictor(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """Predicts quantities of clean molecules: the guides and judges of Hoogeboom et al. 2022 (App. E).

    The atoms' embeddings are summed between two small networks. The defaults are the published sizes.

    Args:
        properties: Names of the K properties.
        num_features: F, feature columns beside the three of the position.
        width: Width of the atoms' embeddings.
        num_layers: Number of message-passing layers.
        num_bases: Gaussian radial bases of the distances beside the squared distances, see ``radial_bases``.

    Attributes:
        mean: Mean of each property over the training data, ``[K]`` in its unit.
        spread: Mean absolute deviation, ``[K]``: the unit of errors in training and guidance.
    """

    mean: Tensor
    spread: Tensor

    @register_to_config
    def __init__(
        self,
        properties: tuple[str, ...],
        num_features: int = 5,
        width: int = 128,
        num_layers: int = 7,
        num_bases: int = 0,
    ) -> None:
        super().__init__()
        if not properties:
            raise ValueError("properties is empty; name at least one, as in [alpha, mu]")
        self.properties = tuple(properties)
        self.encoder = InvariantEncoder(num_features, width, num_layers, num_bases)
        self.atom = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.molecule = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, len(properties)))
        self.register_buffer("mean", torch.zeros(len(properties)))
        self.register_buffer("spread", torch.ones(len(properties)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Properties ``[B, K]`` in their units, of molecules ``x [B, N, 3 + F]`` with ``mask [B, N]``."""
        atoms = self.atom(self.encoder(x, mask)) * mask[..., None]
        return self.mean + self.spread * self.molecule(atoms.sum(1))


class EGNNTimePredictor(TimePredictor):
    """Predicts the timestep of noisy molecules: an EGNN and a feed-forward head (arXiv 2510.11057).

    Messages carry distances; each atom's squared distance from the centre joins its features before the head. With the
    defaults the network reads mostly the noise in the features: it is nearly blind to a bond of the wrong length.
    ``num_bases``, ``per_atom`` and ``decided_elements`` together make it read the geometry.

    Args:
        num_features: F, feature columns beside the three of the position.
        num_timesteps: T.
        width: Width of the atoms' embeddings.
        num_layers: Number of message-passing layers.
        conditions: See ``TimePredictor``.
        num_bases: Gaussian radial bases of the distances beside the squared distances, see ``radial_bases``.
        per_atom: Average the logits of the atoms; False averages their embeddings instead, where one damaged atom
            among many is lost.
        decided_elements: Read each atom's largest feature as its element, so that only the positions tell the noise
            level. The gradient with respect to the features is then zero.
    """

    @register_to_config
    def __init__(
        self,
        num_features: int = 5,
        num_timesteps: int = 1000,
        width: int = 128,
        num_layers: int = 4,
        conditions: dict[str, int] | None = None,
        num_bases: int = 0,
        per_atom: bool = False,
        decided_elements: bool = False,
    ) -> None:
        super().__init__(num_timesteps, conditions)
        self.per_atom = per_atom
        self.decided_elements = decided_elements
        self.encoder = InvariantEncoder(num_features, width, num_layers, num_bases)
        self.atom = nn.Sequential(nn.Linear(width + num_features + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.hidden = nn.Sequential(nn.Linear(width + 1, width), nn.SiLU())
        self.head = nn.Linear(width + self.condition_width, num_timesteps)

    def forward(self, x: Tensor, mask: Tensor, **values: Tensor) -> Tensor:
        """Logits ``[B, T]`` for noisy molecules ``x [B, N, 3 + F]`` with ``mask [B, N]``."""
        real = mask[..., None].to(x)
        if self.decided_elements:
            elements = nn.functional.one_hot(x[..., 3:].argmax(-1), x.shape[-1] - 3)
            x = torch.cat((x[..., :3], elements.to(x)), -1)
        radius = x[..., :3].square().sum(-1, keepdim=True)
        atoms = self.atom(torch.cat((self.encoder(x, mask), radius, x[..., 3:]), -1)) * real
        count = real.sum(1)
        # A mean, since the noise level does not grow with the molecule; the size is a feature of its own.
        if self.per_atom:
            sizes = (count / 10)[:, None].expand(-1, x.shape[1], -1)
            # The head is linear, so this is the mean of the atoms' logits.
            hidden = (self.hidden(torch.cat((atoms, sizes), -1)) * real).sum(1) / count
        else:
            hidden = self.hidden(torch.cat((atoms.sum(1) / count, count / 10), -1))
        return self.head(self.with_condition(hidden, values))
