"""One step of the reverse process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from tag_lightning.diffusion.spaces import SampleNoise, Space


@dataclass(frozen=True)
class Step:
    """One step of the reverse process, from ``timestep`` to ``next_timestep``.

    Attributes:
        index: Position in the reverse process, 0 at the noisiest step.
        timestep: Training timestep of the sample.
        next_timestep: Training timestep reached, None where that is the data itself.
        alpha_cumprod: ``alphas_cumprod[timestep]``.
        next_alpha_cumprod: ``alphas_cumprod[next_timestep]``, 1 for the data.
        space: Where the samples live.
        source: Noise for guidance that draws some, apart from the solver's own.
    """

    index: int
    timestep: int
    next_timestep: int | None
    alpha_cumprod: float
    next_alpha_cumprod: float
    space: Space
    source: SampleNoise = field(repr=False)

    def noise(self) -> Tensor:
        """Fresh standard normal noise of the space, ``[B, ...]``."""
        return self.space.noise(self.source)

    def reached(self) -> Step:
        """The step as seen from where it ends, for corrections made after it.

        Raises:
            ValueError: If it ends at the data, which has no timestep.
        """
        if self.next_timestep is None:
            raise ValueError("the last step reaches the data, which has no timestep")
        return replace(self, timestep=self.next_timestep, alpha_cumprod=self.next_alpha_cumprod)


class Transition(NamedTuple):
    """The Gaussian from which the next sample is drawn.

    Attributes:
        mean: ``[B, ...]``.
        std: Standard deviation of every coordinate, 0 for a deterministic step.
    """

    mean: Tensor
    std: float
