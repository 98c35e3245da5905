"""The exact denoiser of a Gaussian mixture."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from tag_lightning.diffusion import LinearSchedule


class MixtureDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """Predicts the noise in samples of ``1/K sum_k N(m_k, I)`` in closed form, without training.

    Under a variance-preserving linear schedule every marginal is ``1/K sum_k N(sqrt(a) m_k, I)``, so
    ``epsilon = sqrt(1 - a) (x - sum_k r_k(x) sqrt(a) m_k)`` with responsibilities ``r_k``.

    Args:
        means: The means ``m_k``, K lists of D numbers.
        num_timesteps: T of the linear schedule.
        beta_start: First beta of the schedule.
        beta_end: Last beta of the schedule.
    """

    centres: Tensor
    alphas_cumprod: Tensor

    @register_to_config
    def __init__(
        self,
        means: tuple[tuple[float, ...], ...] = ((10.0, 10.0), (-10.0, -10.0)),
        num_timesteps: int = 100,
        beta_start: float = 1e-4,
        beta_end: float = 0.1,
    ) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor(means, dtype=torch.float64))
        powers = LinearSchedule(num_timesteps, beta_start, beta_end).alphas_cumprod
        self.register_buffer("alphas_cumprod", powers)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The noise ``[B, D]`` in samples ``x [B, D]`` at ``timesteps [B]``."""
        power = self.alphas_cumprod[timesteps][:, None].double()
        centres = power.sqrt()[:, None] * self.centres.double()
        distances = (x.double()[:, None] - centres).square().sum(-1)
        mean = (torch.softmax(-distances / 2, 1)[..., None] * centres).sum(1)
        return ((1 - power).sqrt() * (x.double() - mean)).to(x.dtype)
