"""Reverse steps between the timesteps that a time predictor finds, in place of those of the schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tag_lightning.diffusion import Guidance, Predict, Prediction, Proposal, Step, per_sample
from tag_lightning.guidance.noise_awareness import ClassifierFreeNoiseAwareness
from tag_lightning.guidance.own_step import OwnStep
from tag_lightning.guidance.tag import TemporalAlignment
from tag_lightning.guidance.time_posterior import TimePredictorGuidance, require_one_timestep
from tag_lightning.guidance.timestep_contrast import TimestepContrast


class MoreRedAS(OwnStep, TimePredictorGuidance):
    """The adaptive sampler of MoreRed (Kahouli et al. 2024, arXiv 2404.10935; "AS" in its code).

    At every step the time predictor estimates the timestep of each sample, the denoiser predicts there, and the sample
    takes one ancestral step from there, towards the data by as many timesteps as the run's own step. A sample that
    reaches the data stays as it is; the others reach it in the last step of the run. The proposal of the solver is
    discarded, and the Time-Gap of such an arm measures how far samples run ahead of the schedule, or behind it.
    Gradient methods beside it differentiate the prediction at the timestep of the schedule, which costs another call.

    Readings and limits: the paper trains a regression of the normalised timestep; here it is the rounded mean of the
    predictor's posterior over timesteps, which is what such a regression learns. The paper takes steps of one timestep
    until all samples arrive; here their number is that of the run.

    Args:
        predictor: As in ``TemporalAlignment``. None takes the time predictor of the run.
        **interval: ``start`` and ``stop``, see ``Guidance``. Below ``stop`` samples go on from the timesteps of the
            schedule, wherever they are.

    Raises:
        ValueError: When a sampler is made, see ``OwnStep``; and behind another guidance that chooses the timestep.
    """

    cost = "denoiser 1 / 0, predictor 1 / 0"
    replaces_timestep = True

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        super().require_company(before, after)
        require_one_timestep(self, before)
        if any(isinstance(other, TemporalAlignment) and other.conditions for other in after):
            own = type(self).__name__
            raise ValueError(f"TAG cannot look ahead through {own}, which predicts once per step; put TAG before it")

    def timesteps(self, x: Tensor, step: Step) -> Tensor:
        """The timesteps from which samples ``x [B, ...]`` step, ``[B]``."""
        with torch.no_grad():
            posterior = self.log_posterior(x.detach(), step).exp()
        known = torch.arange(step.num_timesteps, device=posterior.device, dtype=posterior.dtype)
        return (posterior @ known).nan_to_num().round().long()

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        timesteps = self.timesteps(x, step)
        prediction = predict(x, timesteps, null_timestep=True) if self.needs_null_timestep else predict(x, timesteps)
        step.state["latest"] = (timesteps, prediction.detach())
        return prediction

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        x, (timesteps, seen) = x.detach(), step.state["latest"]
        bars = torch.nn.functional.pad(step.alphas_cumprod.to(x.device), (0, 1), value=1.0)
        reached = timesteps - (step.num_timesteps if step.next_timestep is None else step.timestep - step.next_timestep)
        # The entry behind the last timestep is that of the data.
        a, b = bars[timesteps], bars[torch.where(reached < 0, step.num_timesteps, reached)]
        x0, ratio = step.space.clip(seen.x0), a / b
        mean = per_sample(b.sqrt() * (1 - ratio) / (1 - a), x) * x0
        mean = mean + per_sample(ratio.sqrt() * (1 - b) / (1 - a), x) * x
        moved = mean + per_sample(((1 - b) / (1 - a) * (1 - ratio)).sqrt(), x) * step.noise()
        arrived = step.state.get("arrived", torch.zeros_like(timesteps, dtype=torch.bool))
        step.state["arrived"] = arrived | (reached < 0)
        kept = arrived.reshape(-1, *(1,) * (x.ndim - 1))
        return Proposal(torch.where(kept, x, moved), 0.0, torch.zeros_like(x))


class MoreRedITP(MoreRedAS):
    """MoreRed with one prediction of the timestep, made at the first step and counted down ("ITP" in its code)."""

    cost = "denoiser 1 / 0, predictor 1 / 0, in the first step"

    def timesteps(self, x: Tensor, step: Step) -> Tensor:
        if "first" not in step.state:
            step.state["first"] = (super().timesteps(x, step), step.timestep)
        first, start = step.state["first"]
        return (first - (start - step.timestep)).clamp(min=0)


class MoreRedJT(MoreRedAS):
    """MoreRed with a denoiser that is not told the timestep ("JT" in its code, for joint training).

    The noise and the timestep are both found in the sample, and the step is the one of ``MoreRedAS``. In the paper one
    network has a head for each; here they are a denoiser that was trained without its timestep now and then
    (``DiffusionModule(timestep_dropout=0.5)``), asked without it, and the time predictor.
    """

    needs_null_timestep = True

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        super().require_company(before, after)
        kinds = (TimestepContrast, ClassifierFreeNoiseAwareness)
        for name in (type(other).__name__ for other in before if isinstance(other, kinds)):
            raise ValueError(
                f"{name} compares what the denoiser says about timesteps, which {type(self).__name__} does not tell "
                "it; keep one, or let their intervals not overlap"
            )
