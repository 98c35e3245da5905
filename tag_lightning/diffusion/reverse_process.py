"""The reverse process: one step, the checks on the way, the sample proposed for its end, and its repetition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from tag_lightning.diffusion.sample_noise import SampleNoise
from tag_lightning.diffusion.spaces import Space


class NonFiniteError(FloatingPointError):
    """A network returned NaN or infinity while sampling."""


class DeferredChecks:
    """Checks whose outcome stays on the device until ``settle`` reads all of them in one transfer.

    Reading a flag from a GPU waits for everything queued before it, so a check per network call would cost more
    than the call's own overhead.

    Args:
        keep_nonfinite: Let samples become NaN or infinite. Samples of a batch do not interact, so the others are
            unaffected.
    """

    def __init__(self, keep_nonfinite: bool = False) -> None:
        self.keep_nonfinite = keep_nonfinite
        self._open: list[tuple[Tensor, Callable[[], Exception]]] = []

    def require(self, good: Tensor, error: Callable[[], Exception]) -> None:
        """Raise ``error()`` at the next ``settle`` unless every entry of ``good`` is True."""
        self._open.append((good.logical_not().any(), error))

    def require_finite(self, timestep: int, **values: Tensor) -> None:
        """Raise at the next ``settle`` if NaN or infinity is among ``values``, unless those are kept.

        Args:
            timestep: Training timestep of the samples.
            **values: Tensors ``[B, ...]`` by their origin as the error names it, underscores for spaces.
        """
        for name, tensor in values.items() if not self.keep_nonfinite else ():
            finite = torch.isfinite(tensor.detach()).reshape(len(tensor), -1).all(1)
            error = partial(_nonfinite, finite, name.replace("_", " "), timestep)
            self._open.append((finite.logical_not().any(), error))

    def settle(self) -> None:
        """Raise the error of the first check that failed.

        Raises:
            NonFiniteError: Names the origin, the number of samples and the timestep.
        """
        checks, self._open = self._open, []
        if not checks:
            return
        failed = torch.stack([flag for flag, _ in checks]).tolist()
        for (_, error), bad in zip(checks, failed, strict=True):
            if bad:
                raise error()


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
        levels: ``(alpha_bar, next_alpha_bar)`` of every step of the run, for schedules that are normalised over it.
        space: The space of the samples.
        noise_source: Noise stream that no other guidance draws from.
        pass_index: Number of times this step was already taken (recurrence), 0 at first.
        state: Memory of this guidance or solver alone, empty at the first step of every run.
        checks: Checks that are read together at some later step.
        alphas_cumprod: That of all training timesteps, ``[T]`` in float64, for guidance that denoises at another level.
    """

    index: int
    timestep: int
    next_timestep: int | None
    alpha_bar: float
    next_alpha_bar: float
    num_timesteps: int
    levels: Sequence[tuple[float, float]]
    space: Space
    noise_source: SampleNoise = field(repr=False)
    pass_index: int = 0
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    checks: DeferredChecks = field(default_factory=DeferredChecks, repr=False)
    alphas_cumprod: Tensor = field(default_factory=partial(torch.empty, 0), repr=False)

    @property
    def place(self) -> tuple[int, int]:
        """``index`` and ``pass_index``, which tell this step from all others of the run."""
        return self.index, self.pass_index

    def noise(self) -> Tensor:
        """Fresh standard normal noise of the space, ``[B, ...]``."""
        return self.space.noise(self.noise_source)

    def within(self, name: str) -> Step:
        """The step as a guidance inside this one sees it, by a ``name`` of its own: with its own noise and memory."""
        noise, state = self.state.setdefault(name, (self.noise_source.branch(name), {}))
        return replace(self, noise_source=noise, state=state)

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
        inside = (self.start is None or timestep <= self.start) and (self.stop is None or timestep >= self.stop)
        return self.passes if inside else 1


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


@overload
def per_sample(values: Tensor, like: Tensor) -> Tensor: ...
@overload
def per_sample(values: float, like: Tensor) -> float: ...
@overload
def per_sample(values: Tensor | float, like: Tensor) -> Tensor | float: ...
def per_sample(values: Tensor | float, like: Tensor) -> Tensor | float:
    """``values [B]`` shaped to multiply ``like [B, ...]``; a number stays as it is."""
    if isinstance(values, Tensor) and values.ndim == 1:
        return values.reshape(-1, *(1,) * (like.ndim - 1)).to(like)
    return values


def _nonfinite(finite: Tensor, what: str, timestep: int) -> NonFiniteError:
    where = "timesteps of their own" if isinstance(timestep, Tensor) else f"timestep {timestep}"
    return NonFiniteError(
        f"{what} returned NaN or infinity at {where} for {int((~finite).sum())} of {len(finite)} samples; "
        "check the weights or, if guidance moves the samples, lower its scale or strength"
    )
