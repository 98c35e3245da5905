"""Predictors of properties and of the timestep of molecules, invariant to rotation and translation."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from tag_lightning.diffusion import centred
from tag_lightning.networks.egnn import InvariantEncoder
from tag_lightning.networks.time_predictor import TimePredictor

_TIME_COLUMNS = 32


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

    Raises:
        ValueError: If ``properties`` is empty or names one twice.
    """

    mean: Tensor
    spread: Tensor

    @register_to_config
    def __init__(
        self,
        properties: tuple[str, ...] = ("alpha", "mu"),
        num_features: int = 5,
        width: int = 128,
        num_layers: int = 7,
        num_bases: int = 0,
    ) -> None:
        super().__init__()
        if not properties:
            raise ValueError("properties is empty; name at least one, as in [alpha, mu]")
        if len(set(properties)) < len(properties):
            raise ValueError(f"properties must be different, got {', '.join(properties)}; name each one once")
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


class EGNNNoiseLevel(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """Regresses the logarithm of the noise in a molecule over the noise that its timestep should have.

    One number for positions and features together: a denoiser is told one timestep. Every atom is told the timestep;
    its embedding, its squared distance from the centre, its features and their squared length become its channels, and
    the head reads the mean and the log-power of each channel over the atoms, as ``NoiseLevelCNN`` does over the pixels.
    Invariant to rotations, reflections, translations and the order of the atoms.

    Args:
        num_features: F, feature columns beside the three of the position.
        num_timesteps: T of the denoiser's schedule.
        width: Width of the atoms' embeddings.
        num_layers: Number of message-passing layers.
        num_bases: Gaussian radial bases of the distances beside the squared distances, see ``radial_bases``.

    Raises:
        ValueError: If there are fewer than 2 timesteps.
    """

    @register_to_config
    def __init__(
        self,
        num_features: int = 5,
        num_timesteps: int = 1000,
        width: int = 48,
        num_layers: int = 2,
        num_bases: int = 16,
    ) -> None:
        super().__init__()
        if num_timesteps < 2:
            raise ValueError(f"num_timesteps must be at least 2, got {num_timesteps}")
        self.num_timesteps = num_timesteps
        self.encoder = InvariantEncoder(num_features + _TIME_COLUMNS, width, num_layers, num_bases)
        columns = width + num_features + 2 + _TIME_COLUMNS
        self.atom = nn.Sequential(nn.Linear(columns, width), nn.SiLU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(2 * width + 1 + _TIME_COLUMNS, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        """``log r [B]`` for ``x = sqrt(a) x0 + r sqrt(1 - a) epsilon``, molecules ``[B, N, 3 + F]``.

        Args:
            x: Noisy molecules, positions in angstrom, then features.
            timesteps: The timesteps they should be at, ``[B]`` in 0 .. T-1.
            mask: True at real atoms, ``[B, N]``.
        """
        x = centred(x, mask)
        real = mask[..., None].to(x)
        count = real.sum(1)
        time = get_timestep_embedding(timesteps * (1000 / self.num_timesteps), _TIME_COLUMNS).to(x)
        times = time[:, None].expand(-1, x.shape[1], -1)
        embedded = self.encoder(torch.cat((x, times), -1), mask)
        lengths = torch.stack([block.square().sum(-1) for block in (x[..., :3], x[..., 3:])], -1)
        atoms = self.atom(torch.cat((embedded, lengths, x[..., 3:], times), -1)) * real
        power = atoms.square().sum(1) / count
        return self.head(torch.cat((atoms.sum(1) / count, (power + 1e-6).log(), count / 10, time), -1))[:, 0]
