"""Samples of an arm, drawn in seeded chunks that any number of processes can share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import all_gather_object, get_world_size, is_available, is_initialized

from tag_lightning.diffusion import DDIM, Denoiser, NonFiniteError, Run, Sampler, Solver, Space
from tag_lightning.diffusion.arguments import require_count, require_device
from tag_lightning.evaluation.acceleration import Acceleration, Precision
from tag_lightning.evaluation.arm_result import ArmResult, FailedArmError
from tag_lightning.evaluation.arms import Arm, require_arms
from tag_lightning.evaluation.candidates import Likeliest, candidate_seed
from tag_lightning.evaluation.chunk_keys import ChunkKeys
from tag_lightning.evaluation.chunk_store import ChunkStore
from tag_lightning.evaluation.fingerprint import IndescribableError
from tag_lightning.evaluation.networks import (
    load_denoiser,
    load_time_predictor,
    require_same_length,
    require_schedule,
)
from tag_lightning.evaluation.sharding import is_sharded
from tag_lightning.evaluation.step_observer import StepObserver, Stopwatch
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.evaluation_mode import evaluating, networks_inside
from tag_lightning.metrics import RowsByIndex
from tag_lightning.metrics.totals import Totals
from tag_lightning.networks import TimePredictor
from tag_lightning.networks.time_predictor import ConditionedTimePredictor
from tag_lightning.progress import Progress, tracked

# Beside the rows of a chunk, whose columns are identifiers.
_SAMPLES = "/samples"


@dataclass
class ArmSampler:
    """Everything that the arms of a comparison have in common.

    Arms are paired: sample ``i`` of every arm starts from the same noise and has the same target, whatever the number
    of processes. The Time-Gap of a step is measured on the input of the denoiser: after the step's corrections, TAG
    and corruption included.

    Attributes:
        denoiser: Frozen denoiser.
        task: Targets and metrics, bound to data and to the samples to draw.
        predictor: Time predictor that corrects; None suffices for arms without TAG.
        time_gap_predictor: A second, independently trained time predictor that measures the Time-Gap, since the one
            that corrects flatters itself; None measures with the one that corrects.
        noise_level: Regressor of the noise level, for arms with ``Retiming``.
        solver: Proposes the next sample.
        num_steps: Reverse steps of arms that state none.
        chunk_size: Samples drawn at once, no more than there are. Another size changes samples by rounding alone; they
            are repeatable to the last bit for a fixed one.
        num_kept: Number of samples that are kept, by global index; the others are measured only.
        keep_streamed: Keep the rows of columns that metrics add up as they come, such as features, for resampling.
        device: Device to sample on; None takes the denoiser's.
        rank: Index of this process.
        world_size: Number of processes.
        precision: ``bf16-mixed`` or ``16-mixed`` runs denoisers under autocast; all else is float32.
        compile: Compile denoisers, guides and time predictors by ``torch.compile`` for the drawing.
        progress: Show progress on this process.
        store: Keeps finished chunks, which a later evaluation with the same settings and weights reuses; None draws
            every chunk.
    """

    denoiser: Denoiser
    task: SamplingTask
    predictor: nn.Module | None = None
    time_gap_predictor: nn.Module | None = None
    noise_level: nn.Module | None = None
    solver: Solver = field(default_factory=DDIM)
    num_steps: int = 100
    chunk_size: int = 64
    num_kept: int = 64
    keep_streamed: bool = False
    device: torch.device | str | None = None
    rank: int = 0
    world_size: int = 1
    precision: Precision = "32-true"
    compile: bool = False
    progress: bool = True
    store: ChunkStore | None = None

    def __post_init__(self) -> None:
        self._device = require_device(self.device or self.denoiser.schedule.alphas_cumprod.device)
        self._measuring = self.predictor if self.time_gap_predictor is None else self.time_gap_predictor
        for name, least in {"chunk_size": 1, "num_steps": 1, "num_kept": 0}.items():
            require_count(name, getattr(self, name), least)
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in 0 .. {self.world_size - 1} (world_size - 1), got {self.rank}")
        self._acceleration = Acceleration(self.precision, self.compile, self._device)
        for role in ("predictor", "time_gap_predictor"):
            require_same_length(getattr(self, role), role, self.denoiser, self.task.example)
        require_same_length(self.noise_level, "noise_level", self.denoiser)
        candidates = (self.denoiser, self.predictor, self._measuring, self.noise_level, *self.task.networks)
        self._networks = [network for network in candidates if network is not None]
        self._predictors: dict[str, nn.Module] = {}
        self._denoisers: dict[str, Denoiser] = {}
        for network in self._networks:
            network.to(self._device)

    def sampler(self, arm: Arm, indices: Sequence[int]) -> Sampler:
        """The sampler of one chunk.

        Raises:
            ValueError: If the arm's settings are impossible.
        """
        conditions = self.task.conditions(indices, self._device)
        predictor = self._conditioned(self._correcting(arm), indices)
        run = Run(predictor, conditions, self.noise_level, self._further_denoiser)
        guidance = [entry.for_run(run) for entry in arm.guidance]
        steps = self.num_steps if arm.num_steps is None else arm.num_steps
        return Sampler(self.denoiser, self.solver, steps, guidance, arm.recurrence, self.task.keep_nonfinite)

    def space(self, arm: Arm, indices: Sequence[int]) -> Space:
        """The space of one chunk, with the condition that the denoiser is told in this arm.

        Raises:
            ValueError: If the denoiser cannot be told what the task asks for.
        """
        space = self.task.space(indices, self._device)
        if arm.tells_condition(self.denoiser) and self.denoiser.conditioning is not None:
            attributes = self.task.attributes(indices, self._device)
            space.denoiser_inputs = self.denoiser.conditioning.inputs(attributes)
        return space

    def prepare(self, reference: Iterable[Any] | None = None) -> None:
        """Measure the real data that samples are compared with, once.

        Args:
            reference: Batches; None takes the datamodule's ``reference_dataloader()``.
        """
        if reference is None:
            batches = self.task.data.reference_dataloader()
            reference = tracked(batches, "measuring the real data", visible=self.progress)
        with evaluating(*self._networks):
            self.task.prepare(reference, self._device)

    def require_possible(self, arms: Mapping[str, Arm], measured: bool = True) -> None:
        """Check names and settings of all arms before any is drawn.

        Args:
            arms: By name.
            measured: Also check that guidance finds what it compares with, such as the typical likelihood of real
                data, which the training of a time predictor measures.

        Raises:
            ValueError: Names the arm and the way out.
        """
        require_arms(arms)
        for name, arm in arms.items():
            if arm.sweep is not None:
                raise ValueError(f"arm {name} is a sweep; draw the arms that expanded(arms) returns")
            try:
                sampler = self.sampler(arm, [0])
                if arm.tells_condition(self.denoiser):
                    self.space(arm, range(self.task.num_samples))
                for network in networks_inside(self._conditioned(self._measuring, [0]), sampler.guidance):
                    if isinstance(network, ConditionedTimePredictor):
                        network.require_complete()
                for entry in sampler.guidance if measured else ():
                    entry.require_measured(sampler.timesteps)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"arm {name}: {error}") from error
            if arm.best_of > 1 and not self.task.conditions([0], self._device):
                raise ValueError(
                    f"arm {name}: best_of {arm.best_of} needs a guide to choose by; give the task one, or set best_of "
                    "to 1"
                )
        self.task.require_networks(self._networks)  # those of single arms are loaded by now

    def draw(self, name: str, arm: Arm, position: str = "1 of 1") -> ArmResult:
        """Draw and measure the samples of one arm; every process must call it.

        Args:
            name: The arm.
            arm: Its settings.
            position: The arm's place among others, for the progress.

        Raises:
            FailedArmError: On every process if a chunk became NaN or infinite on one of them; names the arm and, if a
                network is to blame, the timestep. If several chunks fail, it names the first of them.
        """
        timesteps = self.sampler(arm, [0]).timesteps
        own = self.task.columns
        streamed = set() if self.keep_streamed else self.task.streamed
        columns = own | {"seconds": 1} | ({"gaps": len(timesteps)} if self._measuring else {})
        rows = RowsByIndex({c: width for c, width in columns.items() if c not in streamed}, device=self._device)
        nothing = {column: torch.empty(0, width, device=self._device) for column, width in own.items()}
        totals = Totals(self.task.totals(nothing, []))
        samples = RowsByIndex({"samples": math.prod(self.task.sample_shape)}, torch.float32, self._device)
        failure: tuple[int, str] | None = None
        try:
            for kept, measured, x in self._drawn(name, arm, f"sampling {name} (arm {position})", len(timesteps)):
                index = torch.tensor(kept)
                totals.update(self.task.totals(measured, kept))
                rows.update(index, **{column: values for column, values in measured.items() if column not in streamed})
                samples.update(index[index < self.num_kept], samples=x.flatten(1))
        except _FailedChunkError as error:
            failure = error.chunk * self.world_size + self.rank, f"arm {name}: {error}"
        if (message := _first_failure(failure)) is not None:
            raise FailedArmError(message)
        # A process without chunks computes as well: the gathering inside waits for all of them.
        gathered = {column: values.cpu() for column, values in rows.compute().items()}
        images = samples.compute()["samples"].reshape(-1, *self.task.sample_shape).cpu()
        sums = {total: values.cpu() for total, values in totals.compute().items()}
        figures, gaps = self.task.summary(gathered | sums), None
        if self._measuring:
            gaps = gathered["gaps"].nanmean(0)
            figures["time_gap"] = float(gaps.nanmean())
        figures |= {"seconds": float(gathered["seconds"].mean()), "num_samples": self.task.num_samples}
        return ArmResult(figures, timesteps, gaps, images, gathered, arm.point)

    def _drawn(
        self, name: str, arm: Arm, title: str, steps: int
    ) -> Iterator[tuple[list[int], Mapping[str, Tensor], Tensor]]:
        """Each chunk of this process: global indices, rows, and those of its samples that are kept."""
        missing = []
        for number, (chunk, key) in enumerate(zip(self._chunks, self._keys(name, arm), strict=True)):
            found = None if key is None or self.store is None else self.store.read(key)
            if found is None:
                missing.append((number, *chunk, key))
            else:
                x = found.pop(_SAMPLES)
                yield chunk[0], found, x
        share, left = sum(len(kept) for kept, _ in self._chunks), sum(len(kept) for _, kept, *_ in missing)
        if self.progress and left < share:
            print(f"{share - left} of {share} samples of {name} were drawn before", flush=True)
        progress, idle = Progress(title, left, "sample", self.progress and left > 0), self._idle_rounds(len(missing))
        for number, kept, padded, key in missing:
            try:
                with evaluating(*self._networks):
                    advance = partial(progress.advance, len(kept) / steps / arm.best_of)
                    x, measured = self._chunk(arm, padded, advance)
            except NonFiniteError as error:
                progress.close()
                if self._sharded:
                    raise  # the other processes wait for this one inside the network: only the end of the job helps
                raise _FailedChunkError(number, error) from error
            measured = {column: values[: len(kept)] for column, values in measured.items()}
            x = x[: len(kept)][torch.tensor(kept) < self.num_kept]
            if key is not None and self.store is not None:
                self.store.write(key, measured | {_SAMPLES: x})
            yield kept, measured, x
        progress.close()
        for _ in range(idle):
            with evaluating(*self._networks):
                self._chunk(arm, self.task.order()[:1] * self._chunk_length, lambda: None)

    def _idle_rounds(self, missing: int) -> int:
        """Chunks that this process draws for nothing, so that all call sharded networks equally often."""
        if not self._sharded:
            return 0
        counts: list[int] = [0] * get_world_size()
        all_gather_object(counts, missing)
        return max(counts) - missing

    @property
    def _sharded(self) -> bool:
        return is_available() and is_initialized() and any(map(is_sharded, self._networks))

    @property
    def _chunk_length(self) -> int:
        return min(self.chunk_size, len(self.task.order()))

    @cached_property
    def _chunks(self) -> list[tuple[list[int], list[int]]]:
        """The chunks of this process: global indices, and the same padded."""
        order, size = self.task.order(), self._chunk_length
        kept = [order[start : start + size] for start in range(0, len(order), size)[self.rank :: self.world_size]]
        # Every chunk has the same size, so that the same kernels run on every process.
        return [(indices, indices + [indices[-1]] * (size - len(indices))) for indices in kept]

    def _keys(self, name: str, arm: Arm) -> Sequence[str | None]:
        """The key of each chunk; None if something that its samples depend on has no fingerprint."""
        if self.store is None:
            return [None] * len(self._chunks)
        try:
            conditional = arm.tells_condition(self.denoiser)
            return self._chunk_keys.of(self._networks, self.sampler(arm, [0]), arm.best_of, conditional)
        except IndescribableError as error:
            if self.progress:
                print(f"samples of {name} cannot be kept for a later run: {error}", flush=True)
            return [None] * len(self._chunks)

    @cached_property
    def _chunk_keys(self) -> ChunkKeys:
        settings = (self._measuring, self.noise_level, self.chunk_size, self.num_kept, self.precision, self.compile)
        return ChunkKeys(self.task, self._device, self._chunks, settings)

    def _chunk(self, arm: Arm, indices: list[int], advance: Callable[[], None]) -> tuple[Tensor, dict[str, Tensor]]:
        sampler = self.sampler(arm, indices)
        measuring = self._conditioned(self._measuring, indices)
        space = self.space(arm, indices)
        likeliest = Likeliest(self.task.conditions(indices, self._device), space) if arm.best_of > 1 else None
        stopwatch, seconds = Stopwatch(self._device), 0.0
        for candidate in range(arm.best_of):
            observer = StepObserver(measuring, sampler.timesteps, len(indices), self._device, advance)
            with stopwatch.running(), self._accelerated():
                x = sampler.sample(space, candidate_seed(self.task.seed, candidate), [observer.observe])
                with torch.no_grad():
                    drawn = {"x": space.finished(x)}
            seconds -= observer.seconds
            if measuring is not None:
                drawn["gaps"] = observer.gaps(self.task.keep_nonfinite)
            if likeliest is not None:
                with stopwatch.running(), torch.no_grad():
                    drawn = likeliest.add(drawn)
        x = self.task.pad(drawn.pop("x"))
        with torch.no_grad():
            rows = self.task.rows(x, indices) | drawn
        rows["seconds"] = torch.full((len(indices),), (seconds + stopwatch.seconds) / len(indices))
        return x, rows

    def _accelerated(self) -> AbstractContextManager[None]:
        """The networks of the reverse process in the chosen precision, compiled if chosen; judges are left alone."""
        denoisers = [denoiser.network for denoiser in (self.denoiser, *self._denoisers.values())]
        noisy = (self.predictor, self._measuring, self.noise_level, *self._predictors.values())
        others = [network for network in (*noisy, *self.task.guides) if network is not None]
        return self._acceleration.active(denoisers, others)

    def _correcting(self, arm: Arm) -> nn.Module | None:
        """The time predictor that corrects in an arm, loaded once."""
        if arm.predictor is None:
            return self.predictor
        if arm.predictor not in self._predictors:
            predictor = load_time_predictor(arm.predictor, "predictor", self.denoiser, self.task.example)
            assert predictor is not None
            self._predictors[arm.predictor] = predictor.to(self._device)
            self._networks.append(predictor)
        return self._predictors[arm.predictor]

    def _further_denoiser(self, source: str) -> Denoiser:
        """A denoiser beside that of the comparison, loaded once."""
        if source not in self._denoisers:
            further = load_denoiser(source, self.task.example, self.task.data).to(self._device)
            require_schedule(further.schedule, self.denoiser, source)
            self._denoisers[source] = further
            self._networks.append(further)
        return self._denoisers[source]

    def _conditioned(self, predictor: nn.Module | None, indices: Sequence[int]) -> nn.Module | None:
        """A predictor of the conditional kind with the targets of these samples."""
        if isinstance(predictor, TimePredictor) and predictor.conditions:
            return ConditionedTimePredictor(predictor, self.task.attributes(indices, self._device))
        return predictor


class _FailedChunkError(Exception):
    """A chunk became NaN or infinite."""

    def __init__(self, chunk: int, error: NonFiniteError) -> None:
        super().__init__(str(error))
        self.chunk = chunk


def _first_failure(own: tuple[int, str] | None) -> str | None:
    """The message of the failed chunk of the lowest number on any process; None if all of them drew theirs."""
    failures = [own]
    if is_available() and is_initialized():
        # The gathering of rows would wait forever for a process that gave up alone.
        failures = [None] * get_world_size()
        all_gather_object(failures, own)
    return min((failure for failure in failures if failure is not None), default=(0, None))[1]
