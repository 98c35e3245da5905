"""Guidance inside the pipelines of diffusers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tag_lightning.diffusion import BoxSpace, Guidance, Prediction, Run, SampleNoise, Step


class StepEndGuidance:
    """Guidance that moves noisy samples, as the ``callback_on_step_end`` of a pipeline of diffusers.

    After each step of the pipeline the samples are moved at the timestep that the step reached, before the pipeline
    denoises them there. So Temporal Alignment Guidance in Stable Diffusion is::

        tag = StepEndGuidance(TemporalAlignment(predictor))
        pipeline(prompt, callback_on_step_end=tag)

    The noise that a pipeline starts from and the samples that it ends with stay as they are. For pipelines without
    the argument, such as ``DDIMPipeline``, write the loop and call ``moved`` after ``scheduler.step``. A run begins
    with its first step, so one object serves any number of runs, one after the other.

    Args:
        *guidance: Guidance that overrides ``correct`` alone, such as ``TemporalAlignment``, run in this order. A time
            predictor is called with the samples that the pipeline denoises, ``[B, C, H, W]`` in float32: the latents
            of Stable Diffusion. It must have been trained on the noise schedule of the scheduler.
        run: Fills in what guidance leaves open, such as the time predictor.
        seed: Seed of the noise of such guidance; sample ``i`` of a batch has the same in every run.

    Raises:
        ValueError: If there is no guidance, or one does more than move noisy samples; and in the first step, if the
            scheduler has no noise schedule of discrete timesteps, or a guidance asks for the denoiser.
    """

    def __init__(self, *guidance: Guidance, run: Run | None = None, seed: int = 0) -> None:
        if not guidance:
            raise ValueError("StepEndGuidance has no guidance; pass at least one, such as TemporalAlignment(predictor)")
        for entry in guidance:
            _require_correction_alone(entry)
        self.guidance = tuple(entry.for_run(run or Run()) for entry in guidance)
        self.seed = seed
        self._states: list[dict[str, Any]] = []
        self._noises: list[SampleNoise] = []

    def __call__(self, pipeline: Any, step_index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Move ``tensors["latents"]``; called by the pipeline."""
        return tensors | {"latents": self.moved(pipeline.scheduler, step_index, tensors["latents"])}

    def moved(self, scheduler: Any, step_index: int, samples: Tensor) -> Tensor:
        """The samples that a step reached, moved.

        Args:
            scheduler: The scheduler, its timesteps set.
            step_index: Number of steps taken before this one.
            samples: ``[B, ...]`` as the step returned them, in the scale of the scheduler.

        Raises:
            ValueError: See above.
            NonFiniteError: If the network of a guidance returns NaN or infinity.
        """
        if step_index == 0:
            self._states = [{} for _ in self.guidance]
            self._noises = [self._noise(place, samples) for place in range(len(self.guidance))]
        if not hasattr(scheduler, "alphas_cumprod"):
            raise ValueError(
                f"{type(scheduler).__name__} has no alphas_cumprod: guidance needs a scheduler with a noise schedule "
                "of discrete timesteps, such as DDIMScheduler"
            )
        # In one transfer, since each waits for the device that the pipeline keeps them on.
        timesteps = [round(timestep) for timestep in torch.as_tensor(scheduler.timesteps).tolist()]
        if step_index + 1 >= len(timesteps):
            return samples  # the data itself
        # Schedulers that follow an unscaled ODE, such as Euler's, hand the network samples of unit variance.
        scale = float(scheduler.scale_model_input(torch.ones(()), scheduler.timesteps[step_index + 1]))
        with torch.inference_mode(False), torch.no_grad():
            x = scale * samples.detach().float().clone()
            step = self._step(scheduler, step_index + 1, timesteps, x)
            for entry, state, noise in zip(self.guidance, self._states, self._noises, strict=True):
                if entry.acts(step.timestep):
                    x = entry.correct(x, replace(step, state=state, noise_source=noise), _Refusal(entry))
        step.checks.settle()
        return (x / scale).to(samples)

    def _noise(self, place: int, samples: Tensor) -> SampleNoise:
        name = f"{type(self.guidance[place]).__qualname__} {place}"
        return _space(samples).noise_source(self.seed, zlib.crc32(name.encode()))

    def _step(self, scheduler: Any, index: int, timesteps: Sequence[int], x: Tensor) -> Step:
        powers = scheduler.alphas_cumprod
        known = powers.tolist()
        bars = [known[timestep] for timestep in timesteps] + [1.0]
        return Step(
            index=index,
            timestep=timesteps[index],
            next_timestep=timesteps[index + 1] if index + 1 < len(timesteps) else None,
            alpha_bar=bars[index],
            next_alpha_bar=bars[index + 1],
            num_timesteps=len(powers),
            levels=list(pairwise(bars)),
            space=_space(x),
            noise_source=self._noises[0],
            alphas_cumprod=powers.double(),
        )


def _space(x: Tensor) -> BoxSpace:
    return BoxSpace(x.shape[1:], range(len(x)), x.device, x.dtype)


class _Refusal:
    """Stands for the denoiser, which a callback does not have."""

    def __init__(self, asking: Guidance) -> None:
        self._name = type(asking).__name__

    def __call__(self, x: Tensor, timestep: Tensor | int, **inputs: Any) -> Prediction:
        raise ValueError(
            f"{self._name} asks for the denoiser, which the callback of a pipeline does not have; use it in a Sampler"
        )


def _require_correction_alone(guidance: Guidance) -> None:
    kind = type(guidance)
    extra = [name for name in ("denoise", "propose") if getattr(kind, name) is not getattr(Guidance, name)]
    if extra or kind.correct is Guidance.correct:
        raise ValueError(
            f"{kind.__name__} does not move noisy samples alone, and the callback at the end of a step can do nothing "
            "else; use it in a Sampler"
        )
    if getattr(guidance, "conditions", ()):
        raise ValueError(
            f"{kind.__name__} with conditions asks for the denoiser; leave conditions out, or use a Sampler"
        )
