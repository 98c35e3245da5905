"""What the reverse loop offers to guidance: four places to take part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from tag_lightning.diffusion.denoiser import Prediction
from tag_lightning.diffusion.steps import Step, Transition

Predict = Callable[[Tensor, int], Prediction]
"""The denoiser as wrapped by the guidance before, ``predict(x, timestep)``; may be called under grad."""


class Guidance:
    """A way to change the reverse process; every hook leaves it alone unless a subclass overrides it.

    Hooks run in list order. A guidance that keeps state over steps resets it where ``step.index == 0``.

    Attributes:
        needs_grad: Whether ``advance`` differentiates the prediction with respect to the sample.
            The one denoiser call of the step then records its graph.
        resources: Attributes that may be left at None until ``bind`` fills them in.
    """

    needs_grad: bool = False
    resources: tuple[str, ...] = ()

    def bind(self, **resources: Any) -> Self:
        """A copy in which every attribute left at None takes the resource of its name, where there is one.

        So a configuration can say ``TemporalAlignment`` without naming the predictor that is being trained.
        """
        bound = copy.copy(self)
        for name, resource in resources.items():
            if getattr(bound, name, resource) is None:
                setattr(bound, name, resource)
        return bound

    def require_complete(self) -> None:
        """Check that nothing this guidance needs is still left open.

        Raises:
            ValueError: Names what is missing.
        """
        for name in self.resources:
            if getattr(self, name) is None:
                raise ValueError(
                    f"{type(self).__name__} has no {name}: pass {name}=..., or let the run provide one "
                    f"(GuidedSampling does from sampling.predictor and sampling.guide)"
                )

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """Move the noisy samples ``x [B, ...]`` before they are denoised."""
        return x

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        """Predict for ``x [B, ...]`` at ``step.timestep``, usually by way of ``predict``."""
        return predict(x, step.timestep)

    def draw(self, transition: Transition, noise: Tensor, step: Step) -> Tensor:
        """The next samples ``[B, ...]`` from the solver's transition. One guidance at most may replace it."""
        return transition.mean + transition.std * noise

    def advance(self, x_next: Tensor, x: Tensor, prediction: Prediction, step: Step) -> Tensor:
        """Move the proposed next samples ``x_next [B, ...]``.

        Args:
            x_next: What the solver proposes for ``step.next_timestep``.
            x: The samples that were denoised; a leaf that requires grad when any guidance ``needs_grad``.
            prediction: For ``x``, unclipped, with its graph when any guidance ``needs_grad``.
            step: The step taken.
        """
        return x_next
