"""A schedule of the learning rate for runs whose length is decided on the way."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmUpStableDecay(LRScheduler):
    """A linear warm-up, a constant rate, and a decay to zero like ``1 - sqrt`` over the last part of the run.

    As good as a cosine of the same length (Hägele et al. 2024, arXiv 2405.18392, Sec. 3), and a run that resumes before
    its decay may be made longer or shorter: the schedule is that of the settings, not of the checkpoint.

    Args:
        optimizer: Its learning rates are those of the constant part.
        total_steps: Steps of the run, including those before a resume; None is the length of the run that it trains in.
        warm_up_steps: Steps of the warm-up, at least 1; fewer if the decay leaves fewer.
        decay_share: Share of ``total_steps`` that the decay takes, inside [0, 1].

    Raises:
        ValueError: If a number is out of range, or ``total_steps`` is missing.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warm_up_steps: int = 500, decay_share: float = 0.2
    ) -> None:
        if total_steps is None:
            raise ValueError("WarmUpStableDecay needs total_steps, the number of steps of the run")
        if warm_up_steps < 1:
            raise ValueError(f"warm_up_steps must be at least 1, got {warm_up_steps}")
        if not 0 <= decay_share <= 1:
            raise ValueError(f"decay_share must lie in [0, 1], got {decay_share}")
        self.total_steps = total_steps
        self.decay_steps = math.floor(decay_share * total_steps)
        self.warm_up_steps = max(1, min(warm_up_steps, total_steps - self.decay_steps))
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each parameter group at the present step."""
        step = self.last_epoch
        factor = min(1.0, (step + 1) / self.warm_up_steps)
        left = self.total_steps - step
        if left < self.decay_steps:
            factor = 1 - math.sqrt(1 - max(0, left) / self.decay_steps)
        return [factor * rate for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The step reached and the rates; the course follows from the settings."""
        return {name: self.__dict__[name] for name in ("last_epoch", "base_lrs", "_step_count", "_last_lr")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the step reached, also that of another schedule."""
        self.__dict__.update({name: state_dict[name] for name in self.state_dict() if name in state_dict})
