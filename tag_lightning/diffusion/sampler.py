"""The one reverse loop."""

from __future__ import annotations

import copy
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tag_lightning.diffusion.denoiser import Denoiser, Prediction
from tag_lightning.diffusion.guidance import Guidance, Predict
from tag_lightning.diffusion.reverse_process import DeferredChecks, Recurrence, Step
from tag_lightning.diffusion.sample_noise import SampleNoise
from tag_lightning.diffusion.solvers import Solver
from tag_lightning.diffusion.spaces import Space
from tag_lightning.evaluation_mode import evaluating, networks_inside

Observer = Callable[[Tensor, Step], None]
"""Called as ``observer(x, step)`` with the samples the denoiser is about to see."""

_SOLVER_STREAM, _FIRST_GUIDANCE_STREAM, _OBSERVER_STREAM = 0, 1, 2**33
# Steps between two looks at the checks: rare enough to cost a GPU nothing, often enough to end a lost run early.
_STEPS_BETWEEN_CHECKS = 10


class Sampler:
    """Turns noise into samples with a denoiser, a solver and any number of guidance methods.

    Samples are projected onto their space after every change. A step costs one forward pass of the denoiser, and with
    gradient guidance one backward pass as well.

    Args:
        denoiser: Frozen denoiser, called in evaluation mode.
        solver: Proposes the next sample, for example ``DDIM()``.
        num_steps: Number of reverse steps, spaced evenly over the T training timesteps, starting at T-1.
        guidance: Guidance methods, run in this order at every step.
        recurrence: Number of times each step is taken, or a ``Recurrence`` for a range of timesteps. None takes the
            largest default of the guidance methods, or 1.
        keep_nonfinite: Return samples that became NaN or infinite as they are, instead of raising.

    Raises:
        ValueError: If ``num_steps`` or ``recurrence`` is out of range, or a guidance cannot run with this denoiser,
            solver or recurrence, or the other methods in the list.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        solver: Solver,
        num_steps: int,
        guidance: Sequence[Guidance] = (),
        recurrence: int | Recurrence | None = None,
        keep_nonfinite: bool = False,
    ) -> None:
        if not hasattr(denoiser, "schedule"):  # FSDP wraps a Denoiser in a class of its own
            raise ValueError(
                f"denoiser must be a Denoiser, got a {type(denoiser).__name__}; give "
                "Denoiser(network, schedule, prediction_type)"
            )
        total = denoiser.schedule.num_timesteps
        if not 1 <= num_steps <= total:
            raise ValueError(f"num_steps must lie in 1 .. {total} (the schedule's T), got {num_steps}")
        self.denoiser = denoiser
        self.solver = solver
        self.num_steps = num_steps
        self.guidance = tuple(guidance)
        self.recurrence = Recurrence(recurrence) if isinstance(recurrence, int) else recurrence
        self.keep_nonfinite = keep_nonfinite
        self._require_possible()

    @property
    def timesteps(self) -> list[int]:
        """The training timesteps visited, decreasing from T-1, ``num_steps`` of them."""
        total = self.denoiser.schedule.num_timesteps
        return [round(total * (self.num_steps - i) / self.num_steps) - 1 for i in range(self.num_steps)]

    @property
    def passes(self) -> list[int]:
        """The number of times the step at each of ``timesteps`` is taken."""
        if self.recurrence is not None:
            return [self.recurrence.passes_at(timestep) for timestep in self.timesteps]
        own = [guidance for guidance in self.guidance if guidance.recurrence is not None]
        return [
            max((g.recurrence.passes_at(t) for g in own if g.recurrence and g.acts(t)), default=1)
            for t in self.timesteps
        ]

    def sample(self, space: Space, seed: int, observers: Sequence[Observer] = ()) -> Tensor:
        """Draw the batch of samples that ``space`` describes.

        Works under any gradient mode, inference mode included. The networks of denoiser, guidance and space are in
        evaluation mode meanwhile.

        Args:
            space: Shape, global indices and device of the batch.
            seed: Non-negative; a sample depends only on it and on its global index.
            observers: Called at every pass of every step with the samples the denoiser is about to see.

        Returns:
            Clean samples ``[B, ...]``, inside the range of the space.

        Raises:
            NonFiniteError: If the denoiser, or the network of a guidance, returns NaN or infinity; names the
                timestep. Not with ``keep_nonfinite``.
            ValueError: If the space has no samples, or a shape that the denoiser cannot take; if a guidance contrasts
                a condition that ``space`` does not have.
        """
        if not len(space.indices):
            raise ValueError("the space has no samples: its indices are empty; give at least one index")
        for entry in self.guidance:
            if (entry.needs_condition or entry.needs_null_condition) and not space.denoiser_inputs:
                raise ValueError(
                    f"{type(entry).__name__} strengthens the condition of each sample, but the space has none; set its "
                    "denoiser_inputs to denoiser.conditioning.inputs({...})"
                )
        networks = evaluating(self.denoiser, *networks_inside(self.guidance, space))
        with torch.inference_mode(False), torch.no_grad(), networks:
            return self._run(space, seed, observers)

    def _require_possible(self) -> None:
        repeated = {t for t, passes in zip(self.timesteps, self.passes, strict=True) if passes > 1}
        acting = [{t for t in self.timesteps if guidance.acts(t)} for guidance in self.guidance]
        for place, (entry, times) in enumerate(zip(self.guidance, acting, strict=True)):
            if entry.needs_noise and not self.solver.is_stochastic:
                raise ValueError(
                    f"{type(entry).__name__} chooses the noise of each step, but {type(self.solver).__name__} as "
                    "configured draws none; use a stochastic solver, such as DDIM with eta above 0"
                )
            if entry.needs_null_timestep and not self.denoiser.has_null_timestep:
                raise ValueError(
                    f"{type(entry).__name__} needs a denoiser that was trained with its timestep dropped at random, "
                    "which this one was not; train one with timestep_dropout 0.1"
                )
            if entry.needs_null_condition and not self.denoiser.has_null_condition:
                raise ValueError(
                    f"{type(entry).__name__} needs a denoiser that was trained with a condition dropped at random, "
                    "which this one was not; train one with condition and condition_dropout"
                )
            if entry.needs_condition and self.denoiser.conditioning is None:
                raise ValueError(
                    f"{type(entry).__name__} needs a conditional denoiser, which this one is not; take "
                    "another one, or train one with a condition"
                )
            entry.require_denoiser(self.denoiser)
            if entry.needs_predicted_noise and not self.solver.reads_noise:
                raise ValueError(
                    f"{type(entry).__name__} changes the noise that a step puts back, but "
                    f"{type(self.solver).__name__} does not read it; use DDIM"
                )
            if entry.single_pass and times & repeated:
                raise ValueError(
                    f"{type(entry).__name__} cannot take a step several times; set recurrence to 1, or give it an "
                    "interval outside that of the recurrence"
                )
            beside = [bool(times & others) for others in acting]
            before, after = (
                [other for i, other in enumerate(self.guidance) if beside[i] and i in places]
                for places in (range(place), range(place + 1, len(acting)))
            )
            entry.require_company(before, after)

    def _run(self, space: Space, seed: int, observers: Sequence[Observer]) -> Tensor:
        noise, checks = space.noise_source(seed, _SOLVER_STREAM), DeferredChecks(self.keep_nonfinite)
        members = list(_members(self.guidance, self.timesteps, partial(space.noise_source, seed)))
        onlooker: dict[str, Any] = {"noise_source": space.noise_source(seed, _OBSERVER_STREAM), "state": {}}
        watch = [lambda x, step, o=o: o(x, replace(step, **onlooker)) for o in observers]
        x = space.noise(noise)
        for first, passes in zip(self._steps(space, noise, checks), self.passes, strict=True):
            for step in (replace(first, pass_index=k) for k in range(passes)):
                if step.pass_index > 0:
                    ratio = step.alpha_bar / step.next_alpha_bar
                    x = math.sqrt(ratio) * x + math.sqrt(1 - ratio) * step.noise()
                x = self._reverse(x, step, members, watch)
            if first.index % _STEPS_BETWEEN_CHECKS == 0:
                checks.settle()
        checks.require_finite(first.timestep, the_last_reverse_step=x)
        checks.settle()
        return space.clip(x)

    def _steps(self, space: Space, noise: SampleNoise, checks: DeferredChecks) -> Iterator[Step]:
        """The steps as the solver sees them, whose memory and noise they carry."""
        timesteps, state = self.timesteps, dict[str, Any]()
        bars = [self._alpha_bars[timestep] for timestep in timesteps]
        levels = list(zip(bars, [*bars[1:], 1.0], strict=True))
        for index, (timestep, after) in enumerate(zip(timesteps, [*timesteps[1:], None], strict=True)):
            yield Step(
                *(index, timestep, after, *levels[index], len(self._alpha_bars), levels, space, noise),
                state=state,
                checks=checks,
                alphas_cumprod=self.denoiser.schedule.alphas_cumprod,
            )

    def _reverse(self, x: Tensor, step: Step, members: Sequence[_Member], observers: Sequence[Observer]) -> Tensor:
        acting = [(m, replace(step, noise_source=m.noise, state=m.state)) for m in members if step.timestep in m.acts]
        inputs = {**step.space.inputs, **step.space.denoiser_inputs}
        predict: Predict = (own := _OwnPrediction(self.denoiser, step, self._alpha_bars, inputs))
        for member, view in acting:
            if "correct" in member.hooks:
                x = step.space.project(member.guidance.correct(x, view, predict))
            if "denoise" in member.hooks:
                predict = partial(self._wrapped, member.guidance, view, predict)
        for observe in observers:
            observe(x, step)
        needs_grad = any(member.guidance.needs_grad for member, _ in acting)
        x = own.x = x.detach().requires_grad_(needs_grad)
        with torch.set_grad_enabled(needs_grad):
            prediction = predict(x, step.timestep)
        step.checks.require_finite(step.timestep, the_denoiser=prediction.epsilon)
        proposal = self.solver.propose(x.detach(), _clipped(prediction, step, self.denoiser.clip_range), step, predict)
        proposing = [(m.guidance, view) for m, view in acting if "propose" in m.hooks]
        answer = own.answer or prediction
        known = own.answer is not None and (own.answer.x0.requires_grad or not needs_grad)
        if not known and any(guidance.needs_prediction for guidance, _ in proposing):
            answer = own.renewed()
        for guidance, view in proposing:
            proposal = guidance.propose(proposal, x, answer, view)
        # Whatever a guidance adds, and rounding, stays out of the directions that the space does not have.
        return step.space.project(proposal.sample.detach())

    def _wrapped(
        self, guidance: Guidance, step: Step, inner: Predict, x: Tensor, timestep: Tensor | int, **inputs: Any
    ) -> Prediction:
        if isinstance(timestep, Tensor):
            step = replace(step, timestep=timestep, alpha_bar=_at(self.denoiser, timestep))  # type: ignore[arg-type]
        elif timestep != step.timestep:
            step = replace(step, timestep=timestep, alpha_bar=self._alpha_bars[timestep])
        if inputs:
            step = replace(step, space=_conditioned(step.space, inputs))
        return guidance.denoise(x, step, partial(inner, **inputs) if inputs else inner)

    @cached_property
    def _alpha_bars(self) -> list[float]:
        return self.denoiser.schedule.alphas_cumprod.tolist()


class _Member(NamedTuple):
    """A guidance during one run: the hooks it overrides, the timesteps at which it acts, its noise and memory."""

    guidance: Guidance
    hooks: frozenset[str]
    acts: frozenset[int]
    noise: SampleNoise
    state: dict[str, Any]


def _members(
    guidances: Sequence[Guidance], timesteps: Sequence[int], source: Callable[[int], SampleNoise]
) -> Iterator[_Member]:
    """Each guidance with a noise stream that depends on its class and its place among its class alone.

    A wrapper draws from the stream of the guidance it wraps, so that both stay paired.
    """
    places: Counter[str] = Counter()
    for guidance in guidances:
        kind, name = type(guidance), type(guidance.innermost).__qualname__
        stream = _FIRST_GUIDANCE_STREAM + zlib.crc32(f"{name} {places[name]}".encode())
        places[name] += 1
        hooks = frozenset(n for n in ("correct", "denoise", "propose") if getattr(kind, n) is not getattr(Guidance, n))
        acts = frozenset(timestep for timestep in timesteps if guidance.acts(timestep))
        yield _Member(guidance, hooks, acts, source(stream), {})


@dataclass
class _OwnPrediction:
    """The denoiser itself, innermost of all wrappers, which keeps its answer for the samples of the step."""

    denoiser: Denoiser
    step: Step
    alpha_bars: Sequence[float]
    inputs: Mapping[str, Tensor]
    x: Tensor | None = None
    answer: Prediction | None = None

    def __call__(self, x: Tensor, timestep: Tensor | int, **inputs: Any) -> Prediction:
        prediction = self.denoiser(x, timestep, **{**self.inputs, **inputs})
        if isinstance(timestep, Tensor):
            return prediction._replace(alpha_bar=_at(self.denoiser, timestep))
        if timestep != self.step.timestep:
            return prediction._replace(alpha_bar=self.alpha_bars[timestep])
        # Guidance may ask about other samples and with other inputs, which others must not take for the step's own.
        if x is self.x and not inputs and self.answer is None:
            self.answer = prediction
        return prediction

    def renewed(self) -> Prediction:
        """A new prediction for the samples of the step: none was asked for, or none that leads back to them."""
        assert self.x is not None
        with torch.set_grad_enabled(self.x.requires_grad):
            return self.denoiser(self.x, self.step.timestep, **self.inputs)


def _clipped(prediction: Prediction, step: Step, limit: float | None = None) -> Prediction:
    """The prediction without its graph, ``x0`` in the range of the denoiser or space and ``epsilon`` moved along."""
    prediction = prediction.detach()
    x0 = step.space.clip(prediction.x0) if limit is None else prediction.x0.clamp(-limit, limit)
    return prediction if x0 is prediction.x0 or limit == math.inf else prediction.with_x0(x0, step)


def _at(denoiser: Denoiser, timesteps: Tensor) -> Tensor:
    return denoiser.schedule.alphas_cumprod[timesteps.to(denoiser.schedule.alphas_cumprod.device)]


def _conditioned(space: Space, inputs: Mapping[str, Any]) -> Space:
    """The space with the condition of its samples that a prediction asks for: none, or another one."""
    changed, own = copy.copy(space), space.denoiser_inputs
    hidden = inputs.get("null_condition")
    changed.denoiser_inputs = {} if hidden else {name: inputs.get(name, own[name]) for name in own}
    return changed
