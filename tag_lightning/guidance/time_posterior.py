"""The base of guidance that asks the time predictor."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag_lightning.diffusion import Guidance, Run, Step

UNKNOWN = 0
"""The number of timesteps of a step that no denoiser takes."""


class TimePredictorGuidance(Guidance):
    """Guidance by the posterior ``p(t | x)`` of a time predictor.

    Args:
        predictor: ``[B, ...] -> logits [B, T]`` over the training timesteps, called with the inputs of the space as
            keyword arguments. None takes the time predictor of the run (see ``for_run``).
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Attributes:
        owner: Name of the class that asks the predictor through this guidance, for errors; None if it is its own.
    """

    steers = False
    owner: str | None = None

    def __init__(self, predictor: nn.Module | None = None, **interval: Any) -> None:
        super().__init__(**interval)
        self.predictor = predictor

    def for_run(self, run: Run) -> Self:
        """As ``Guidance.for_run``.

        Raises:
            ValueError: If neither this guidance nor the run has a time predictor.
        """
        ready = copy.copy(self)
        if ready.predictor is None:
            ready.predictor = run.predictor
        if ready.predictor is None:
            raise ready._without_predictor()
        return ready

    def _without_predictor(self) -> ValueError:
        return ValueError(
            f"{self.owner or type(self).__name__} has no predictor: pass predictor=..., or give the run one"
        )

    def log_posterior(self, x: Tensor, step: Step) -> Tensor:
        """``log p(t | x)`` of all timesteps, ``[B, T]``, for noisy samples ``x [B, ...]``.

        Raises:
            ValueError: If there is no predictor, or it knows another number of timesteps than the denoiser, or not
                that of ``step``.
        """
        if self.predictor is None:
            raise self._without_predictor()
        logits = self.predictor(x, **step.space.inputs)
        known, total = logits.shape[1], step.num_timesteps
        if total not in (known, UNKNOWN) or (total == UNKNOWN and step.timestep >= known):
            other = f"the sample is at {step.timestep}" if total == UNKNOWN else f"the denoiser has {total}"
            raise ValueError(
                f"the time predictor knows {known} timesteps but {other}; it must be trained with the schedule of the "
                "denoiser"
            )
        step.checks.require_finite(step.timestep, the_time_predictor=logits)
        return logits.log_softmax(1)

    def time_score(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The time-linked score of noisy samples ``x [B, ...]``, under any gradient mode.

        Returns:
            ``grad_x log p(step.timestep | x)`` projected onto the space, ``[B, ...]``, and ``log p(step.timestep | x)``
            without its graph, ``[B]``.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            log_posterior = self.log_posterior(x, step)
            if isinstance(step.timestep, Tensor):  # one per sample
                chosen = log_posterior.gather(1, step.timestep.to(x.device)[:, None])[:, 0]
            else:
                chosen = log_posterior[:, step.timestep]
            (score,) = torch.autograd.grad(chosen.sum(), x)
        step.checks.require_finite(step.timestep, the_gradient_of_the_time_predictor=score)
        return step.space.project(score), chosen.detach()


def require_one_timestep(guidance: Guidance, before: Sequence[Guidance]) -> None:
    """Check that nothing earlier in the list replaces the timestep that ``guidance`` asks for.

    Raises:
        ValueError: Names both and the way out.
    """
    for other in before:
        if other.replaces_timestep:
            raise ValueError(
                f"{type(other).__name__} and {type(guidance).__name__} both choose the timestep of the denoiser, and "
                "the earlier in the list would discard the choice of the later; keep one, or give them intervals "
                "(start, stop) that do not overlap"
            )
