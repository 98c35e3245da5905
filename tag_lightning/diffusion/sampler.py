"""The one reverse loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tag_lightning.diffusion.denoiser import Denoiser, Prediction
from tag_lightning.diffusion.finite import keeping_nonfinite, require_finite
from tag_lightning.diffusion.hooks import Guidance, Predict
from tag_lightning.diffusion.solvers import Solver
from tag_lightning.diffusion.spaces import SampleNoise, Space
from tag_lightning.diffusion.steps import Step

Observer = Callable[[Tensor, Step], None]
"""Called as ``observer(x, step)`` with the samples the denoiser is about to see."""

_SOLVER_STREAM, _GUIDANCE_STREAM = 0, 1


class Sampler:
    """Turns noise into samples with a denoiser, a solver and any number of guidances.

    Samples are projected onto their space after every change. A step without gradient guidance costs one
    forward pass of the denoiser, one with it one forward and one backward pass.

    Args:
        denoiser: Frozen denoiser.
        solver: Proposes the next sample, for example ``DDIM()``.
        num_steps: Reverse steps, spaced evenly over the T training timesteps, starting at T-1.
        guidance: Hooks, run in this order at every step.
        recurrence: Times each step is taken, with re-noising in between (Bansal et al. 2024).
        keep_nonfinite: Return samples that became NaN or infinite as they are, instead of raising.

    Raises:
        ValueError: If ``num_steps`` or ``recurrence`` is out of range, or two guidances replace the draw.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        solver: Solver,
        num_steps: int,
        guidance: Sequence[Guidance] = (),
        recurrence: int = 1,
        keep_nonfinite: bool = False,
    ) -> None:
        total = denoiser.schedule.num_timesteps
        if not 1 <= num_steps <= total:
            raise ValueError(f"num_steps must lie in 1 .. {total} (the schedule's T), got {num_steps}")
        if recurrence < 1:
            raise ValueError(f"recurrence must be at least 1, got {recurrence}")
        drawing = [type(g).__name__ for g in guidance if type(g).draw is not Guidance.draw]
        if len(drawing) > 1:
            raise ValueError(f"only one guidance may replace the draw, got {' and '.join(drawing)}")
        self.denoiser = denoiser
        self.solver = solver
        self.num_steps = num_steps
        self.guidance = tuple(guidance)
        self.recurrence = recurrence
        self.keep_nonfinite = keep_nonfinite
        self._draw = next((g.draw for g in guidance if type(g).draw is not Guidance.draw), Guidance().draw)
        self._needs_grad = any(g.needs_grad for g in guidance)

    @property
    def timesteps(self) -> list[int]:
        """The training timesteps visited, decreasing from T-1, ``num_steps`` of them."""
        total = self.denoiser.schedule.num_timesteps
        return [round(total * (self.num_steps - i) / self.num_steps) - 1 for i in range(self.num_steps)]

    def sample(self, space: Space, seed: int, observers: Sequence[Observer] = ()) -> Tensor:
        """Draw the batch of samples that ``space`` describes.

        Works under any gradient mode, inference mode included.

        Args:
            space: Shape, global indices and device of the batch.
            seed: Non-negative; a sample depends on it and on its global index alone.
            observers: Called at every step with the samples the denoiser is about to see.

        Returns:
            Clean samples ``[B, ...]``, inside the range of the space.

        Raises:
            NonFiniteError: If the denoiser, or a guidance's network, returns NaN or infinity; names the timestep.
                Not with ``keep_nonfinite``.
        """
        with torch.inference_mode(False), torch.no_grad(), keeping_nonfinite(self.keep_nonfinite):
            source = SampleNoise(seed, space.indices, _SOLVER_STREAM)
            x = space.noise(source)
            for step in self._steps(space, SampleNoise(seed, space.indices, _GUIDANCE_STREAM)):
                x_next = self._reverse(x, step, source, observers)
                for _ in range(self.recurrence - 1):
                    ratio = step.alpha_cumprod / step.next_alpha_cumprod
                    x = math.sqrt(ratio) * x_next + math.sqrt(1 - ratio) * space.noise(source)
                    x_next = self._reverse(x, step, source, observers)
                x = x_next
            return space.clip(require_finite(x, "the last reverse step", step.timestep))

    def _steps(self, space: Space, source: SampleNoise) -> Iterator[Step]:
        powers = self.denoiser.schedule.alphas_cumprod.tolist()
        nexts = [*self.timesteps[1:], None]
        for index, (timestep, after) in enumerate(zip(self.timesteps, nexts, strict=True)):
            next_power = 1.0 if after is None else powers[after]
            yield Step(index, timestep, after, powers[timestep], next_power, space, source)

    def _reverse(self, x: Tensor, step: Step, source: SampleNoise, observers: Sequence[Observer]) -> Tensor:
        predict: Predict = partial(self._predict, step)
        for guidance in self.guidance:
            x = step.space.project(guidance.correct(x, step, predict))
            predict = partial(self._wrapped, guidance, step, predict)
        for observe in observers:
            observe(x, step)
        x = x.detach().requires_grad_(self._needs_grad)
        with torch.set_grad_enabled(self._needs_grad):
            prediction = predict(x, step.timestep)
        require_finite(prediction.epsilon, "the denoiser", step.timestep)
        transition = self.solver.transition(self._clipped(x, prediction, step), step)
        noise = step.space.noise(source) if transition.std > 0 else torch.zeros_like(transition.mean)
        x_next = self._draw(transition, noise, step)
        for guidance in self.guidance:
            x_next = guidance.advance(x_next, x, prediction, step)
        # Whatever a guidance adds, and rounding, stays out of the directions that the space does not have.
        return step.space.project(x_next.detach())

    def _predict(self, step: Step, x: Tensor, timestep: int) -> Prediction:
        return self.denoiser(x, timestep, **step.space.inputs)

    def _wrapped(self, guidance: Guidance, step: Step, inner: Predict, x: Tensor, timestep: int) -> Prediction:
        if timestep != step.timestep:
            power = float(self.denoiser.schedule.alphas_cumprod[timestep])
            step = replace(step, timestep=timestep, alpha_cumprod=power)
        return guidance.denoise(x, step, inner)

    def _clipped(self, x: Tensor, prediction: Prediction, step: Step) -> Prediction:
        proposed = prediction.x0.detach()
        x0 = step.space.clip(proposed)
        if x0 is proposed:
            return Prediction(prediction.epsilon.detach(), x0)
        return Prediction(self.denoiser.schedule.epsilon_from_x0(x.detach(), x0, step.timestep), x0)
