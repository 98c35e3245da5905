"""Samples of one arm, drawn in seeded chunks that any number of processes can share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from tag_lightning.callbacks.arms import Arm
from tag_lightning.callbacks.task import ArmResult, SamplingTask
from torch import Tensor, nn

from tag_lightning.diffusion import Denoiser, NonFiniteError, Observer, Run, Sampler, Solver, Step
from tag_lightning.guidance import PolyakStrength, Strength, TemporalAlignment
from tag_lightning.metrics import RowsByIndex, time_gap
from tag_lightning.networks import TimePredictor
from tag_lightning.networks.time_predictor import Told
from tag_lightning.progress import Progress


@dataclass
class ArmRunner:
    """Everything the arms of a run have in common.

    The Time-Gap of a step is measured on what the denoiser is about to see: after the step's corrections, TAG and
    corruption included.

    Attributes:
        denoiser: Frozen denoiser.
        solver: Proposes the next sample.
        task: What is asked for and how it is judged.
        predictor: Time predictor that corrects, None where no arm uses TAG.
        gauge: Time predictor that measures the Time-Gap.
        strength: Of TAG where an arm states none.
        num_steps: Reverse steps where an arm states none.
        num_samples: Samples an arm.
        chunk_size: Samples drawn at once; part of what makes samples repeatable to the last bit.
        seed: Of the noise.
        num_kept: How many samples are kept whole, those that only are measured aside.
        rank: This process.
        world_size: How many there are.
        device: Where to sample.
        show_progress: Whether this process shows how far it is.
    """

    denoiser: Denoiser
    solver: Solver
    task: SamplingTask
    predictor: nn.Module | None
    gauge: nn.Module | None
    strength: Strength | float | None
    num_steps: int
    num_samples: int
    chunk_size: int
    seed: int
    num_kept: int
    rank: int
    world_size: int
    device: torch.device
    show_progress: bool

    def to_device(self) -> None:
        """Move every network to where the samples are made."""
        for network in (self.denoiser, self.predictor, self.gauge, *self.task.networks):
            if network is not None:
                network.to(self.device)

    def sampler(self, arm: Arm, indices: Sequence[int]) -> Sampler:
        """The sampler of one chunk.

        Raises:
            ValueError: If the arm's settings are impossible.
        """
        run = Run(self._told(self.predictor, indices), self.task.conditions(indices, self.device), self.strength)
        guidance = [entry.for_run(run) for entry in arm.guidance]
        steps = self.num_steps if arm.num_steps is None else arm.num_steps
        return Sampler(self.denoiser, self.solver, steps, guidance, arm.recurrence, self.task.keep_nonfinite)

    def require_measured(self, name: str, arm: Arm) -> None:
        """Check that what the arm's strengths compare with has been measured, before any arm is drawn.

        Raises:
            ValueError: Names the arm and the way out.
        """
        sampler = self.sampler(arm, [0])
        for entry in sampler.guidance:
            if not isinstance(entry, TemporalAlignment) or not isinstance(entry.strength, PolyakStrength | None):
                continue
            typical = getattr(entry.predictor, "typical_nll", None)
            if typical is None or bool(typical[sampler.timesteps].isnan().any()):
                raise ValueError(
                    f"arm {name}: PolyakStrength needs a time predictor with a measured typical_nll: validate it once "
                    "during fit, whose checkpoint then has it, or choose another sampling.strength"
                )

    def _told(self, predictor: nn.Module | None, indices: Sequence[int]) -> nn.Module | None:
        """A predictor of the conditional kind with the targets of these samples."""
        if isinstance(predictor, TimePredictor) and predictor.conditions:
            return Told(predictor, self.task.told(indices, self.device))
        return predictor

    def run(self, name: str, arm: Arm, position: str) -> ArmResult:
        """Draw and measure the samples of one arm.

        Args:
            name: The arm.
            arm: Its settings.
            position: For the progress, for example ``2 of 5``.

        Raises:
            NonFiniteError: Names the arm and, where a network is to blame, the timestep.
        """
        steps = len(self.sampler(arm, [0]).timesteps) * arm.recurrence
        columns = self.task.columns | {"seconds": 1} | ({"gaps": steps} if self.gauge else {})
        measured = RowsByIndex(columns).to(self.device)
        samples = RowsByIndex({"samples": math.prod(self.task.sample_shape)}, torch.float32).to(self.device)
        share = sum(len(kept) for kept, _ in self._chunks())
        progress = Progress(f"sampling {name} (arm {position})", share, "sample", self.show_progress)
        for kept, padded in self._chunks():
            try:
                x, rows = self._chunk(arm, padded, partial(progress.advance, len(kept) / steps))
            except NonFiniteError as error:
                raise NonFiniteError(f"arm {name}: {error}") from error
            measured.update(torch.tensor(kept), **{column: values[: len(kept)] for column, values in rows.items()})
            shown = torch.tensor(kept) < self.num_kept
            samples.update(torch.tensor(kept)[shown], samples=x[: len(kept)][shown].flatten(1))
        progress.close()
        # Every process computes, one without chunks too: the gathering inside waits for all of them.
        return self._result(arm, measured.compute(), samples.compute()["samples"])

    def _chunks(self) -> Iterator[tuple[list[int], list[int]]]:
        order = self.task.order(self.num_samples)
        for start in range(0, self.num_samples, self.chunk_size)[self.rank :: self.world_size]:
            kept = order[start : start + self.chunk_size]
            # Every chunk has the same size, so that the same kernels run whoever draws it.
            yield kept, kept + [kept[-1]] * (self.chunk_size - len(kept))

    def _chunk(self, arm: Arm, indices: list[int], advance: Callable[[], None]) -> tuple[Tensor, dict[str, Tensor]]:
        gauge = _Gauge(self._told(self.gauge, indices), self.device)
        sampler = self.sampler(arm, indices)
        started = _now(self.device)
        observers: list[Observer] = [lambda x, step: advance()]
        if self.gauge:
            observers.append(gauge.observe)
        x = sampler.sample(self.task.space(indices, self.device), self.seed, observers)
        seconds = _now(self.device) - started - gauge.seconds
        x = self.task.whole(x)
        with torch.no_grad():
            rows = self.task.measure(x, indices)
        rows["seconds"] = torch.full((len(indices), 1), seconds / len(indices))
        if self.gauge:
            rows["gaps"] = torch.stack(gauge.gaps, 1)
        return x, rows

    def _result(self, arm: Arm, rows: dict[str, Tensor], samples: Tensor) -> ArmResult:
        figures = self.task.summarize(rows)
        gaps = None
        if self.gauge:
            # Steps that recurrence takes again count once, by their mean.
            gaps = rows["gaps"].nanmean(0).reshape(-1, arm.recurrence).mean(1).cpu()
            figures["time_gap"] = float(gaps.nanmean())
        figures["seconds"] = float(rows["seconds"].mean())
        figures["num_samples"] = self.num_samples
        timesteps = self.sampler(arm, [0]).timesteps
        rows = {name: values.cpu() for name, values in rows.items()}
        return ArmResult(figures, timesteps, gaps, samples.reshape(-1, *self.task.sample_shape).cpu(), rows)


class _Gauge:
    """Measures the Time-Gap of the samples the denoiser is about to see, and the time that takes."""

    def __init__(self, predictor: nn.Module | None, device: torch.device) -> None:
        self.predictor = predictor
        self.device = device
        self.gaps: list[Tensor] = []
        self.seconds = 0.0

    def observe(self, x: Tensor, step: Step) -> None:
        assert self.predictor is not None
        started = _now(self.device)
        logits = self.predictor(x, **step.space.inputs)
        step.checks.require_finite(step.timestep, **{"the_time-gap_predictor": logits})
        # A sample that is lost is at no timestep; where such are kept, the mean is over the others.
        lost = ~logits.isfinite().all(1)
        gaps = time_gap(torch.where(lost[:, None], 0, logits), step.timestep).double()
        self.gaps.append(torch.where(lost, torch.nan, gaps))
        self.seconds += _now(self.device) - started


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
