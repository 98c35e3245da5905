"""A Gaussian mixture and all that diffusion asks about it, in closed form and float64.

Noising a mixture of isotropic Gaussians gives another one, so marginals, scores, the ideal denoiser, the
posterior of the timestep and the time-linked score are exact: what tests hold the code against.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import NoiseSchedule


class GaussianMixture:
    """``sum_k weights[k] N(means[k], variances[k] I)`` in D dimensions, and its noised marginals.

    Wherever ``power`` appears it is the ``alpha_bar`` of the marginal asked about, any shape that broadcasts
    with the batch shape of ``x [..., D]``; 1 is the data itself.

    Args:
        weights: ``[K]``, positive; scaled to sum to one.
        means: ``[K, D]``.
        variances: ``[K]``, one per component.
    """

    def __init__(self, weights: Sequence[float], means: Sequence[Sequence[float]], variances: Sequence[float]) -> None:
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.weights /= self.weights.sum()
        self.means = torch.tensor(means, dtype=torch.float64)
        self.variances = torch.tensor(variances, dtype=torch.float64)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``[count, D]`` clean samples."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[component] + self.variances[component].sqrt()[:, None] * noise

    def log_density(self, x: Tensor, power: Tensor | float = 1.0) -> Tensor:
        """``log p(x)``, ``[...]``."""
        return self._log_joint(*self._offsets_and_variances(x, power)).logsumexp(-1)

    def score(self, x: Tensor, power: Tensor | float = 1.0) -> Tensor:
        """``grad_x log p(x)``, ``[..., D]``."""
        offsets, variances = self._offsets_and_variances(x, power)
        responsibilities = self._log_joint(offsets, variances).softmax(-1)
        return -((responsibilities / variances)[..., None] * offsets).sum(-2)

    def _offsets_and_variances(self, x: Tensor, power: Tensor | float) -> tuple[Tensor, Tensor]:
        power = torch.as_tensor(power, dtype=torch.float64)[..., None]
        offsets = x.double()[..., None, :] - power.sqrt()[..., None] * self.means
        return offsets, power * self.variances + 1 - power

    def _log_joint(self, offsets: Tensor, variances: Tensor) -> Tensor:
        squares = offsets.square().sum(-1) / variances
        normaliser = offsets.shape[-1] * (2 * torch.pi * variances).log()
        return self.weights.log() - (squares + normaliser) / 2


class ExactDenoiser(nn.Module):
    """The noise predictor that a perfectly trained network would be: ``-sqrt(1 - alpha_bar) * score``."""

    def __init__(self, mixture: GaussianMixture, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.mixture = mixture
        self.schedule = schedule

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Epsilon ``[B, D]`` for ``x [B, D]`` at ``timesteps [B]``."""
        power = self.schedule.alphas_cumprod[timesteps]
        return (-(1 - power).sqrt()[:, None] * self.mixture.score(x, power)).to(x)


class ExactTimePosterior(nn.Module):
    """The time predictor that a perfectly trained network would be, under a uniform prior over timesteps."""

    def __init__(self, mixture: GaussianMixture, schedule: NoiseSchedule, typical_nll: Tensor | None = None) -> None:
        super().__init__()
        self.mixture = mixture
        self.schedule = schedule
        self.register_buffer("typical_nll", typical_nll)

    def forward(self, x: Tensor) -> Tensor:
        """``log p(t | x)``, ``[B, T]``, for ``x [B, D]``."""
        return self.mixture.log_density(x[:, None, :], self.schedule.alphas_cumprod).log_softmax(1).to(x)


def time_linked_score(mixture: GaussianMixture, schedule: NoiseSchedule, x: Tensor, timestep: int) -> Tensor:
    """Theorem 3.3 of arXiv 2510.11057 written out: ``sum_k gamma_k (score_timestep - score_k)``, ``[B, D]``."""
    powers = schedule.alphas_cumprod
    gamma = mixture.log_density(x[:, None, :], powers).softmax(1)
    scores = mixture.score(x[:, None, :], powers)
    return (gamma[..., None] * (scores[:, timestep, None] - scores)).sum(1)


def typical_nll(mixture: GaussianMixture, schedule: NoiseSchedule, draws: int, generator: torch.Generator) -> Tensor:
    """Mean ``-log p(t | x_t)`` over ``draws`` noised samples of every timestep, ``[T]``.

    Its mean is the cross-entropy that no time predictor can beat.
    """
    posterior = ExactTimePosterior(mixture, schedule)
    values = []
    for timestep in range(schedule.num_timesteps):
        x0 = mixture.sample(draws, generator)
        epsilon = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        x = schedule.add_noise(x0, epsilon, timestep)
        values.append(-posterior(x)[:, timestep].mean())
    return torch.stack(values)
