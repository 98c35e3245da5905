"""Guidance by a second denoiser: auto-guidance and reinforcement-learning guidance."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from tag_lightning.diffusion import Denoiser, Guidance, Predict, Prediction, Run, Step
from tag_lightning.diffusion.arguments import require_non_negative
from tag_lightning.diffusion.schedules import require_same_schedule
from tag_lightning.guidance.classifier_free import extrapolated


class FurtherDenoiser(Guidance, ABC):
    """Guidance by the difference of two denoisers: that of the run, and one that is named here.

    Costs a forward pass of the second. It is told the same timestep and, if it is conditional, the same condition; it
    must have been trained on the same noise schedule, in evaluation mode.

    Args:
        other: A shipped network's name, a folder or a checkpoint, loaded when the run is known; or the denoiser, which
            sampling moves to its device.
        guidance_scale: w, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.

    Raises:
        ValueError: If ``guidance_scale`` is negative or not finite; when a sampler is made, if the noise schedules
            differ, or behind a guidance that replaces the timestep, such as ``TimeCorrection``.

    Attributes:
        role: Name of the other denoiser in error messages, such as "worse".
    """

    role: ClassVar[str] = "other"

    def __init__(self, other: str | Denoiser, guidance_scale: float = 2.0, **interval: Any) -> None:
        super().__init__(**interval)
        self.other = other
        self.guidance_scale = require_non_negative("guidance_scale", guidance_scale)

    def for_run(self, run: Run) -> Self:
        """As ``Guidance.for_run``.

        Raises:
            ValueError: If the network is named, but the run cannot load it.
        """
        if isinstance(self.other, Denoiser):
            return self
        if run.load_denoiser is None:
            raise ValueError(
                f"{type(self).__name__} names {self.other}, but this run loads no networks; pass a Denoiser"
            )
        ready = copy.copy(self)
        ready.other = run.load_denoiser(self.other)
        return ready

    def require_denoiser(self, denoiser: Denoiser) -> None:
        if isinstance(self.other, Denoiser):
            require_same_schedule(
                self.other.schedule.alphas_cumprod,
                denoiser.schedule.alphas_cumprod,
                f"the {self.role} denoiser of {type(self).__name__} ({type(self.other.network).__name__})",
                f"the denoiser of the run ({type(denoiser.network).__name__})",
            )

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        own = type(self).__name__
        for name in (type(other).__name__ for other in before if other.replaces_timestep):
            raise ValueError(
                f"{own} compares two denoisers at one timestep, and {name} before it replaces that of the first; put "
                f"{own} before {name}"
            )

    @abstractmethod
    def mixed(self, own: Prediction, other: Prediction, step: Step) -> Prediction:
        """The prediction to step with, of those by the run's denoiser and by the other."""

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        if not isinstance(self.other, Denoiser):
            raise ValueError(f"{type(self).__name__} has not loaded {self.other} yet; pass a Denoiser, or use for_run")
        if "other" not in step.state:
            step.state["other"] = self.other.to(x.device)
        other: Denoiser = step.state["other"]
        inputs = dict(step.space.inputs)
        if other.conditioning is not None:
            inputs |= step.space.denoiser_inputs
        return self.mixed(predict(x, step.timestep), other(x, step.timestep, **inputs), step)


class AutoGuidance(FurtherDenoiser):
    """Auto-guidance by a worse version of the denoiser (Karras et al. 2024, arXiv 2406.02507, Eq. 3).

    ``epsilon^ = epsilon_worse + w (epsilon - epsilon_worse)``: 1 is the denoiser, 0 its worse version. The worse one
    has fewer parameters or was trained for fewer steps. An arm with ``conditional: true`` tells both the condition, as
    in the paper.

    Args:
        worse: The worse version, see ``FurtherDenoiser``.
        guidance_scale: w, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    cost = "denoiser 1 / 0, worse denoiser 1 / 0"
    role = "worse"

    def __init__(self, worse: str | Denoiser, guidance_scale: float = 2.0, **interval: Any) -> None:
        super().__init__(worse, guidance_scale, **interval)

    def mixed(self, own: Prediction, other: Prediction, step: Step) -> Prediction:
        return extrapolated(own, other, self.guidance_scale, step)


class RLGuidance(FurtherDenoiser):
    """Reinforcement-learning guidance, RLG (Jin et al. 2025, arXiv 2508.21016): a base denoiser mixed with a tuned one.

    ``epsilon^ = (1 - w) epsilon + w epsilon_tuned``: 0 is the denoiser of the run, 1 the tuned one, and more goes
    further in the direction of the tuning.

    Args:
        tuned: The tuned version, see ``FurtherDenoiser``.
        guidance_scale: w, at least 0.
        **interval: ``start`` and ``stop``, see ``Guidance``.
    """

    cost = "denoiser 1 / 0, tuned denoiser 1 / 0"
    role = "tuned"

    def __init__(self, tuned: str | Denoiser, guidance_scale: float = 1.0, **interval: Any) -> None:
        super().__init__(tuned, guidance_scale, **interval)

    def mixed(self, own: Prediction, other: Prediction, step: Step) -> Prediction:
        return extrapolated(own, other, 1 - self.guidance_scale, step)
