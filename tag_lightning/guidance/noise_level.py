"""The noise in a sample relative to that of its timestep: the estimates behind ``Retiming``."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Predict, Run, Step, on_device
from tag_lightning.diffusion.arguments import require_non_negative


class NoiseLevel(ABC):
    """An estimate of the noise in each sample.

    A sample at timestep t is taken as ``sqrt(a_t) x0 + r sqrt(1 - a_t) epsilon``: its signal is where it should be, its
    noise need not be. An estimate depends on the sample alone, never on others of its batch.
    """

    def for_run(self, run: Run) -> Self:
        """This estimate with everything it left open taken from the run.

        Raises:
            ValueError: If the run lacks something; names it.
        """
        return self

    @abstractmethod
    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """``log r [B]`` for samples ``x [B, ...]`` that should be at ``step.timestep``; 0 if the noise is right."""


class KnownNoise(NoiseLevel):
    """The level of samples to which noise of a known standard deviation was added: ``r^2 = 1 + sigma^2 / (1 - a)``.

    True for ``Corruption(sigma)`` if every step retimes, so that the noise of earlier steps is gone. It tells how much
    a better estimate could still gain.

    Args:
        sigma: Standard deviation of the noise added since the last step, at least 0.

    Raises:
        ValueError: If ``sigma`` is negative or not finite.
    """

    def __init__(self, sigma: float) -> None:
        require_non_negative("sigma", sigma)
        self.sigma = sigma

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        power = on_device(step.alpha_bar, x.device, x.dtype).expand(len(x))
        return 0.5 * torch.log1p(self.sigma**2 / (1 - power))


class RegressedNoise(NoiseLevel):
    """The answer of a network trained for it, see ``NoiseLevelModule``. Costs one forward pass of that network.

    Args:
        network: ``(x [B, ...], timesteps [B]) -> log r [B]``; None takes the one of the run.
    """

    def __init__(self, network: nn.Module | None = None) -> None:
        self.network = network

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        if ready.network is None:
            ready.network = run.noise_level
        if ready.network is None:
            raise ValueError(f"{type(self).__name__} has no network: pass network=..., or give the run a noise_level")
        return ready

    def log_ratio(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        if self.network is None:
            raise ValueError(f"{type(self).__name__} has no network: pass network=..., or give the run a noise_level")
        with torch.no_grad():
            return self.network(x, timesteps(x, step), **step.space.inputs)


def timesteps(x: Tensor, step: Step) -> Tensor:
    """The timestep of every sample, ``[B]``."""
    return on_device(step.timestep, x.device).expand(len(x))


def half_log_snr(alpha_bar: Any, like: Tensor) -> Tensor:
    """``log(alpha_bar / (1 - alpha_bar)) / 2`` in float64 on the device of ``like``."""
    return 0.5 * on_device(alpha_bar, like.device, torch.float64).logit()


def retimed(log_ratio: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """The timestep ``[B]`` whose marginal holds samples with ``exp(log_ratio)`` times the noise, and their scale there.

    Args:
        log_ratio: ``log r [B]``; 0 gives the step's own timestep and scale 1.
        step: The step they should be at.
    """
    powers = on_device(step.alphas_cumprod, log_ratio.device, torch.float64)
    here = on_device(step.alpha_bar, log_ratio.device, torch.float64)
    sought = half_log_snr(here, log_ratio) - log_ratio.double()
    grid = half_log_snr(powers, log_ratio)  # decreasing
    after = torch.searchsorted(-grid, -sought).clamp(1, len(grid) - 1)
    nearest = torch.where(grid[after - 1] - sought < sought - grid[after], after - 1, after)
    there = powers[nearest]
    # Equal but for rounding, unless the level lies beyond an end of the schedule.
    signal, noise = (there / here).sqrt(), ((1 - there) / (1 - here)).sqrt() / log_ratio.double().exp()
    return nearest, torch.minimum(signal, noise)
