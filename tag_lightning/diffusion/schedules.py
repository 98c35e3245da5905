"""Noise schedules: how much of the clean sample is left at each training timestep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class NoiseSchedule(nn.Module):
    """A variance-preserving schedule given by its cumulative signal power.

    ``x_t = sqrt(alphas_cumprod[t]) x0 + sqrt(1 - alphas_cumprod[t]) epsilon`` with timesteps
    ``0 .. T-1``, 0 being the cleanest (Ho et al. 2020, Eq. 4).

    The buffer stays in float64 whatever precision the module around it is cast to, since
    ``1 - alphas_cumprod`` near the data loses half its digits in float32.

    Args:
        alphas_cumprod: ``[T]``, strictly decreasing, every value inside (0, 1).

    Raises:
        ValueError: If ``alphas_cumprod`` is not such a vector.
    """

    alphas_cumprod: Tensor

    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        values = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"alphas_cumprod must be a vector [T], got shape {list(values.shape)}")
        if not bool(((values > 0) & (values < 1)).all()):
            raise ValueError("alphas_cumprod must lie strictly between 0 and 1 (a beta of 0 or 1 or NaN?)")
        if not bool((values.diff() < 0).all()):
            raise ValueError("alphas_cumprod must decrease from one timestep to the next")
        self.register_buffer("alphas_cumprod", values)

    @property
    def num_timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alphas_cumprod)

    @property
    def null_timestep(self) -> int:
        """Stands for an unknown timestep: ``2 T``, far from every timestep where networks read it as a number."""
        return 2 * self.num_timesteps

    def signal_and_noise(self, x: Tensor, timesteps: Tensor | int) -> tuple[Tensor, Tensor]:
        """``sqrt(alphas_cumprod[t])`` and ``sqrt(1 - alphas_cumprod[t])``, shaped to multiply ``x [B, ...]``.

        Args:
            x: ``[B, ...]``, only its shape, dtype and device are used.
            timesteps: ``[B]`` integers in ``0 .. T-1``, or one integer for the whole batch.

        Raises:
            IndexError: If a timestep is above T-1, or a single one is negative.
        """
        if isinstance(timesteps, Tensor):
            timesteps = timesteps.to(self.alphas_cumprod.device)
        elif not 0 <= timesteps < len(self.alphas_cumprod):
            raise IndexError(f"timestep {timesteps} is outside 0 .. {len(self.alphas_cumprod) - 1}")
        power = self.alphas_cumprod[timesteps]
        shape = (-1,) + (1,) * (x.ndim - 1)
        return (
            power.sqrt().reshape(shape).to(x),
            (1 - power).sqrt().reshape(shape).to(x),
        )

    def add_noise(self, x0: Tensor, epsilon: Tensor, timesteps: Tensor | int) -> Tensor:
        """``x_t`` for clean samples ``x0 [B, ...]`` and standard normal ``epsilon`` of the same shape."""
        signal, noise = self.signal_and_noise(x0, timesteps)
        return signal * x0 + noise * epsilon

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> NoiseSchedule:
        # Follow the module to its device, but not to a lower precision.
        device = fn(torch.empty(0, device=self.alphas_cumprod.device)).device
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return self


class LinearSchedule(NoiseSchedule):
    """Betas linear in the timestep (Ho et al. 2020): the schedule of the published image experiments.

    Args:
        num_timesteps: T, at least 1.
        beta_start: Variance added at the first timestep, inside (0, 1).
        beta_end: Variance added at the last timestep, inside (0, 1).

    Raises:
        ValueError: If ``num_timesteps`` is below 1.
    """

    def __init__(self, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        _require_timesteps(num_timesteps)
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        super().__init__((1 - betas).cumprod(0))


class CosineSchedule(NoiseSchedule):
    """``alphas_cumprod ~ cos^2`` (Nichol and Dhariwal 2021, Eq. 17), betas at most ``max_beta``.

    Args:
        num_timesteps: T, at least 1.
        offset: Keeps the first betas from vanishing, at least 0.
        max_beta: Upper bound of each beta, inside (0, 1).

    Raises:
        ValueError: If ``num_timesteps`` is below 1.
    """

    def __init__(self, num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> None:
        _require_timesteps(num_timesteps)
        u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
        power = ((u + offset) / (1 + offset) * torch.pi / 2).cos() ** 2
        betas = (1 - power[1:] / power[:-1]).clamp(max=max_beta)
        super().__init__((1 - betas).cumprod(0))


class PolynomialSchedule(NoiseSchedule):
    """``alphas_cumprod = (1 - u^power)^2``, the schedule of EDM for molecules (Hoogeboom et al. 2022, App. B).

    Timestep ``i`` sits at ``u = (i + 1) / T``.

    Args:
        num_timesteps: T, at least 1.
        power: Exponent of the polynomial, above 0.
        precision: ``s``, which keeps ``alphas_cumprod`` inside ``[s, 1 - s]``.
        min_ratio: Lower bound of the signal power kept by one step.
        data_level: Begin with EDM's entry at ``u = 0``, its z_0 with noise of variance ``precision``. The schedule then
            has T + 1 timesteps and timestep ``i`` sits at ``u = i / T``, as the published networks of EDM need it.

    Raises:
        ValueError: If ``num_timesteps`` is below 1.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        power: float = 2.0,
        precision: float = 1e-5,
        min_ratio: float = 0.001,
        data_level: bool = False,
    ) -> None:
        _require_timesteps(num_timesteps)
        u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
        signal = (1 - u**power) ** 2
        kept = (signal[1:] / signal[:-1]).clamp(min=min_ratio)
        if data_level:
            kept = torch.cat((kept.new_ones(1), kept))
        super().__init__((1 - 2 * precision) * kept.cumprod(0) + precision)


def _require_timesteps(num_timesteps: int) -> None:
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}")


def require_same_schedule(first: Tensor | None, second: Tensor | None, first_name: str, second_name: str) -> None:
    """Check that two networks were trained on the same ``alphas_cumprod [T]``; None matches any.

    Raises:
        ValueError: If they differ.
    """
    if first is None or second is None:
        return
    if len(first) != len(second):
        raise ValueError(
            f"{first_name} has T = {len(first)} timesteps but {second_name} has {len(second)}; train both on the same"
        )
    if not torch.allclose(first.double().cpu(), second.double().cpu(), rtol=1e-5, atol=0):
        raise ValueError(f"{first_name} and {second_name} follow different noise schedules; train both on the same one")
