"""The reverse process: one step, the sample proposed for its end, and how often it is repeated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from tag_lightning.diffusion.finiteness import DeferredChecks
from tag_lightning.diffusion.spaces import SampleNoise, Space


@dataclass(frozen=True)
class Step:
    """One step of the reverse process, from ``timestep`` to ``next_timestep``, as one guidance or solver sees it.

    Attributes:
        index: Position in the reverse process, 0 at the noisiest step.
        timestep: Training timestep of the samples. Inside ``Guidance.denoise`` it may be ``[B]``, one per sample, if
            an outer guidance asked for such a prediction.
        next_timestep: Training timestep reached, None if that is the data itself.
        alpha_bar: ``alphas_cumprod[timestep]``, a float; ``[B]`` if ``timestep`` is.
        next_alpha_bar: ``alphas_cumprod[next_timestep]``, 1 for the data.
        num_timesteps: T, the number of training timesteps.
        space: The space of the samples.
        noise_source: Noise stream that no other guidance draws from.
        pass_index: Number of times this step was already taken (recurrence), 0 at first.
        state: Memory of this guidance or solver alone, empty at the first step of every run.
        checks: Checks that are read together, see ``require_finite``.
    """

    index: int
    timestep: int
    next_timestep: int | None
    alpha_bar: float
    next_alpha_bar: float
    num_timesteps: int
    space: Space
    noise_source: SampleNoise = field(repr=False)
    pass_index: int = 0
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    checks: DeferredChecks = field(default_factory=DeferredChecks, repr=False)

    def noise(self) -> Tensor:
        """Fresh standard normal noise of the space, ``[B, ...]``."""
        return self.space.noise(self.noise_source)

    def require_finite(self, values: Tensor, what: str) -> Tensor:
        """Return ``values [B, ...]`` and note for later whether one is NaN or infinite, see ``DeferredChecks``."""
        return self.checks.require_finite(values, what, self.timestep)

    def reached(self) -> Step:
        """The step as seen from its end, for corrections made after it.

        Raises:
            ValueError: If it ends at the data, which has no timestep.
        """
        if self.next_timestep is None:
            raise ValueError("the last step reaches the data, which has no timestep")
        return replace(self, timestep=self.next_timestep, alpha_bar=self.next_alpha_bar)


class Proposal(NamedTuple):
    """The next sample as ``mean + std * noise``.

    Attributes:
        mean: ``[B, ...]``.
        std: Standard deviation of every coordinate, 0 for a deterministic step.
        noise: Standard normal noise ``[B, ...]``, zero for a deterministic step.
    """

    mean: Tensor
    std: float
    noise: Tensor

    @property
    def sample(self) -> Tensor:
        """The proposed sample, ``[B, ...]``."""
        return self.mean + self.std * self.noise

    def moved(self, by: Tensor) -> Proposal:
        """The proposal with its mean shifted by ``by [B, ...]``."""
        return self._replace(mean=self.mean + by)


@dataclass(frozen=True)
class Recurrence:
    """Takes steps several times, with re-noising in between (Bansal et al. 2024, arXiv 2302.07121, Algorithm 1).

    Attributes:
        passes: Number of times each step is taken, at least 1.
        start: Noisiest timestep that is repeated; None is T-1.
        stop: Cleanest timestep that is repeated; None is 0.

    Raises:
        ValueError: If ``passes`` is below 1, or ``start`` below ``stop``.
    """

    passes: int = 1
    start: int | None = None
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"recurrence must be at least 1, got {self.passes}")
        require_interval(self.start, self.stop)

    def passes_at(self, timestep: int) -> int:
        """The number of times the step at ``timestep`` is taken."""
        return self.passes if inside_interval(timestep, self.start, self.stop) else 1


def require_interval(start: int | None, stop: int | None) -> None:
    """Check an interval of timesteps, which the reverse process runs through from ``start`` down to ``stop``.

    Raises:
        ValueError: If ``start`` is below ``stop``, or one is negative.
    """
    if any(bound is not None and bound < 0 for bound in (start, stop)):
        raise ValueError(f"start and stop are training timesteps of at least 0, got start {start} and stop {stop}")
    if start is not None and stop is not None and start < stop:
        raise ValueError(
            f"start is {start} and stop {stop}; sampling runs from large timesteps to small ones, so start must be at "
            "least stop"
        )


def inside_interval(timestep: int, start: int | None, stop: int | None) -> bool:
    """Whether ``stop <= timestep <= start``; None leaves a side open."""
    return (start is None or timestep <= start) and (stop is None or timestep >= stop)


def per_sample(values: Tensor | float, like: Tensor) -> Tensor | float:
    """``values [B]`` shaped to multiply ``like [B, ...]``; a number stays as it is."""
    if isinstance(values, Tensor) and values.ndim == 1:
        return values.reshape(-1, *(1,) * (like.ndim - 1)).to(like)
    return values
