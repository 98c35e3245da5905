"""Time-Gap of noisy samples, and the accuracy and calibration of a time predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


def time_gap(logits: Tensor, timesteps: Tensor | int) -> Tensor:
    """Time-Gap ``|argmax_k logits_k - t|`` of each sample (arXiv 2510.11057).

    Args:
        logits: Output of the time predictor for noisy samples, ``[B, T]``.
        timesteps: Timesteps the samples should be at, ``[B]`` or one for all, in 0..T-1.

    Returns:
        ``[B]`` float32, whole numbers of training timesteps in 0..T-1.

    Raises:
        ValueError: If the shapes do not match, a timestep is outside 0..T-1, or logits contain NaN.
    """
    return unchecked_time_gap(logits, _checked_timesteps(logits, timesteps))


def unchecked_time_gap(logits: Tensor, timesteps: Tensor | int) -> Tensor:
    """``time_gap`` without its checks, each of which waits for a GPU."""
    return (logits.detach().argmax(dim=1) - timesteps).abs().to(torch.float32)


class _PerTimestep(Metric):
    """A mean for every training timestep, from sums and counts that add up over processes.

    Args:
        num_timesteps: T.
        sum_dtype: Type of the sums; integers make them independent of the order of addition.
        **kwargs: Passed to ``torchmetrics.Metric``.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, num_timesteps: int, sum_dtype: torch.dtype, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_timesteps = _require_positive(num_timesteps)
        self.add_state("sums", torch.zeros(num_timesteps, dtype=sum_dtype), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_timesteps, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, timesteps: Tensor) -> None:
        timesteps = timesteps.to(self.counts.device)
        self.sums = self.sums.index_add(0, timesteps, values.to(self.sums))
        self.counts = self.counts.index_add(0, timesteps, torch.ones_like(timesteps))


class TimeGap(_PerTimestep):
    """Mean Time-Gap over all samples seen, in training timesteps: 0 is best, T - 1 the largest possible.

    ``compute``, ``per_timestep`` and ``per_tenth`` cover the samples of all processes, so under DDP every
    process must call them. Sums are of integers, hence the same on any number of processes.

    Args:
        num_timesteps: T.
        **kwargs: Passed to ``torchmetrics.Metric``.
    """

    higher_is_better = False

    def __init__(self, num_timesteps: int, **kwargs: Any) -> None:
        super().__init__(num_timesteps, torch.int64, **kwargs)

    def update(self, logits: Tensor, timesteps: Tensor | int) -> None:
        """Add samples with ``logits [B, T]`` that should be at ``timesteps``, ``[B]`` or one for all.

        Raises:
            ValueError: As ``time_gap``, or if T differs from ``num_timesteps``.
        """
        _require_width(logits, self.num_timesteps)
        timesteps = _checked_timesteps(logits, timesteps)
        self._add(time_gap(logits, timesteps), timesteps)

    def compute(self) -> Tensor:
        """The mean over samples, a float64 scalar; NaN where none was seen."""
        return self.sums.sum().double() / self.counts.sum()

    def per_timestep(self) -> Tensor:
        """The mean over the samples of each training timestep, ``[T]`` float64; NaN where none was seen."""
        with self.sync_context(should_sync=self._to_sync):
            return self.sums.double() / self.counts

    def per_tenth(self) -> Tensor:
        """The mean over the samples of each tenth of the schedule, ``[10]`` float64, cleanest first.

        Timestep t belongs to tenth ``floor(10 t / T)``. A tenth without samples is NaN; below ten
        timesteps some tenths hold no timestep at all.
        """
        tenths = torch.arange(self.num_timesteps, device=self.counts.device) * 10 // self.num_timesteps
        with self.sync_context(should_sync=self._to_sync):
            sums = torch.zeros_like(self.sums[:1]).repeat(10).index_add(0, tenths, self.sums)
            counts = torch.zeros_like(sums).index_add(0, tenths, self.counts)
            return sums.double() / counts


class TypicalNLL(_PerTimestep):
    """Mean ``-log p(t | x_t)`` of samples that are where they should be, at every timestep, in nats.

    ``PolyakStrength`` takes it as the value of a well-aligned sample.

    Args:
        num_timesteps: T.
        window: Timesteps on either side to average over, since the true curve is smooth and few samples see any
            one timestep.
        **kwargs: Passed to ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``window`` is negative.
    """

    def __init__(self, num_timesteps: int, window: int = 0, **kwargs: Any) -> None:
        super().__init__(num_timesteps, torch.float64, **kwargs)
        if window < 0:
            raise ValueError(f"window must be at least 0, got {window}")
        self.window = window

    def update(self, logits: Tensor, timesteps: Tensor | int) -> None:
        """Add samples with ``logits [B, T]`` that are at ``timesteps``, ``[B]`` or one for all.

        Raises:
            ValueError: As ``time_gap``, or if T differs from ``num_timesteps``.
        """
        _require_width(logits, self.num_timesteps)
        timesteps = _checked_timesteps(logits, timesteps)
        log_posterior = logits.detach().double().log_softmax(dim=1)
        self._add(-log_posterior.gather(1, timesteps[:, None])[:, 0], timesteps)

    def compute(self) -> Tensor:
        """``[T]`` float64, at least 0.

        Timesteps never seen are interpolated linearly between the nearest seen ones, and take the value of
        the nearest beyond them; all are NaN if none was seen.
        """
        sums, counts = self._pooled(self.sums), self._pooled(self.counts.double())
        seen = (counts > 0.5).cpu().numpy()
        if not seen.any():
            return torch.full_like(self.sums, torch.nan)
        means = (sums / counts).cpu().numpy()
        filled = np.interp(np.arange(self.num_timesteps), np.flatnonzero(seen), means[seen])
        return torch.from_numpy(filled).to(self.sums.device)

    def _pooled(self, values: Tensor) -> Tensor:
        kernel = torch.ones(1, 1, 2 * self.window + 1, dtype=values.dtype, device=values.device)
        return F.conv1d(values[None, None], kernel, padding=self.window)[0, 0]


class NLLQuantiles(Metric):
    """Quantiles of ``-log p(t | x_t)`` of samples that are where they should be, at every timestep, in nats.

    From a histogram with bins of 0.05 nats up to 25, in which quantiles are interpolated linearly; larger values count
    as 25. Counts are integers, hence the same on any number of processes.

    Args:
        num_timesteps: T.
        levels: The quantiles, each in (0, 1).
        window: Timesteps on either side to pool.
        **kwargs: Passed to ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``window`` is negative or a level outside (0, 1).
    """

    full_state_update = False
    _WIDTH, _BINS = 0.05, 500
    histogram: Tensor

    def __init__(self, num_timesteps: int, levels: Sequence[float], window: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_timesteps = _require_positive(num_timesteps)
        if window < 0 or not all(0 < level < 1 for level in levels):
            raise ValueError(f"window must be at least 0 and levels in (0, 1), got {window} and {list(levels)}")
        self.levels, self.window = tuple(levels), window
        empty = torch.zeros(num_timesteps * self._BINS, dtype=torch.int64)
        self.add_state("histogram", empty, dist_reduce_fx="sum")

    def update(self, logits: Tensor, timesteps: Tensor | int) -> None:
        """Add samples with ``logits [B, T]`` that are at ``timesteps``, ``[B]`` or one for all.

        Raises:
            ValueError: As ``time_gap``, or if T differs from ``num_timesteps``.
        """
        _require_width(logits, self.num_timesteps)
        timesteps = _checked_timesteps(logits, timesteps)
        nll = -logits.detach().double().log_softmax(dim=1).gather(1, timesteps[:, None])[:, 0]
        bins = (nll / self._WIDTH).long().clamp(0, self._BINS - 1)
        places = (timesteps * self._BINS + bins).to(self.histogram.device)
        self.histogram = self.histogram.index_add(0, places, torch.ones_like(places))

    def compute(self) -> Tensor:
        """``[Q, T]`` float64; timesteps whose window saw no sample take the values of the nearest that did.

        NaN if none was seen.
        """
        counts = self.histogram.double().view(self.num_timesteps, self._BINS).T
        kernel = torch.ones(1, 1, 2 * self.window + 1, dtype=counts.dtype, device=counts.device)
        below = F.conv1d(counts[:, None], kernel, padding=self.window)[:, 0].T.cumsum(1)
        total = below[:, -1:]
        seen = torch.nonzero(total[:, 0] > 0.5)[:, 0]
        if not len(seen):
            return counts.new_full((len(self.levels), self.num_timesteps), torch.nan)
        every = torch.arange(self.num_timesteps, device=counts.device)
        nearest = seen[(every[:, None] - seen).abs().argmin(1)]
        below, sought = below[nearest], total[nearest] * counts.new_tensor(self.levels)
        place = torch.searchsorted(below, sought)
        before = torch.where(place > 0, below.gather(1, (place - 1).clamp(min=0)), 0)
        part = (sought - before) / (below.gather(1, place) - before)
        return self._WIDTH * (place + part).T


class TimeCalibration(Metric):
    """Calibration of the time posterior, over all samples seen.

    - ``nll``: mean ``-log p(t | x_t)`` in nats, at least 0, lower is better; ``log T`` for a uniform guess.
    - ``z_squared``: mean squared residual ``(t - E[t | x])^2 / Var[t | x]``: 1 when calibrated, above 1
      when overconfident, below when underconfident. A variance below that of rounding to whole timesteps,
      1/12, counts as 1/12, so that one certain and wrong answer stays finite.
    - ``coverage_90``: fraction of timesteps inside the central 90 % interval of their posterior: 0.9 when
      calibrated. A timestep at the edge counts by the part of its probability inside, which makes 0.9 exact
      for discrete posteriors (the non-randomised transform of Czado, Gneiting and Held 2009).

    Args:
        num_timesteps: T.
        **kwargs: Passed to ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``num_timesteps`` is not above 0.
    """

    full_state_update = False
    nll: Tensor
    z_squared: Tensor
    covered: Tensor
    count: Tensor

    def __init__(self, num_timesteps: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_timesteps = _require_positive(num_timesteps)
        for name in ("nll", "z_squared", "covered"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, timesteps: Tensor | int) -> None:
        """Add samples with ``logits [B, T]`` that are at ``timesteps``, ``[B]`` or one for all.

        Raises:
            ValueError: As ``time_gap``, or if T differs from ``num_timesteps``.
        """
        _require_width(logits, self.num_timesteps)
        timesteps = _checked_timesteps(logits, timesteps)
        log_posterior = logits.detach().double().log_softmax(dim=1)
        self.nll = self.nll - log_posterior.gather(1, timesteps[:, None]).sum().to(self.nll)
        posterior = log_posterior.exp()
        self.z_squared = self.z_squared + _squared_residuals(posterior, timesteps).sum().to(self.nll)
        self.covered = self.covered + _central_coverage(posterior, timesteps, 0.9).sum().to(self.nll)
        self.count = self.count + len(logits)

    def compute(self) -> dict[str, Tensor]:
        """``{"nll", "z_squared", "coverage_90"}``, float64 scalars; NaN if no sample was seen."""
        return {
            "nll": self.nll / self.count,
            "z_squared": self.z_squared / self.count,
            "coverage_90": self.covered / self.count,
        }


def _squared_residuals(posterior: Tensor, timesteps: Tensor) -> Tensor:
    grid = torch.arange(posterior.shape[1], device=posterior.device, dtype=posterior.dtype)
    mean = posterior @ grid
    variance = (posterior * (grid - mean[:, None]).square()).sum(dim=1)
    return (timesteps - mean).square() / variance.clamp(min=1 / 12)


def _central_coverage(posterior: Tensor, timesteps: Tensor, level: float) -> Tensor:
    """The part of each timestep's probability that lies in the central ``level`` of its posterior, ``[B]``."""
    low, high = (1 - level) / 2, (1 + level) / 2
    upper = posterior.cumsum(dim=1).gather(1, timesteps[:, None])[:, 0]
    mass = posterior.gather(1, timesteps[:, None])[:, 0]
    lower = upper - mass
    inside = (upper.clamp(max=high) - lower.clamp(min=low)).clamp(min=0)
    point = ((upper >= low) & (upper <= high)).to(inside)
    return torch.where(mass > 0, inside / mass.clamp(min=torch.finfo(mass.dtype).tiny), point)


def _checked_timesteps(logits: Tensor, timesteps: Tensor | int) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must have shape [B, T], got {list(logits.shape)}")
    batch, total = logits.shape
    given = torch.as_tensor(timesteps, device=logits.device)
    if given.is_floating_point() or given.shape not in ((), (batch,)):
        raise ValueError(
            f"timesteps must be one integer or {batch} of them, one per row of logits, "
            f"got shape {list(given.shape)} of {given.dtype}"
        )
    given = given.to(torch.int64).expand(batch)
    if batch and not bool(((given >= 0) & (given < total)).all()):
        raise ValueError(
            f"timesteps must lie in 0..{total - 1}, the columns of logits, "
            f"got {int(given.min())}..{int(given.max())}; is the predictor's num_timesteps the schedule's?"
        )
    if bool(logits.isnan().any()):
        raise ValueError(
            f"logits contain NaN in {int(logits.isnan().any(dim=1).sum())} of {batch} rows; "
            "check the samples and the time predictor's weights"
        )
    return given


def _require_width(logits: Tensor, num_timesteps: int) -> None:
    if logits.ndim == 2 and logits.shape[1] != num_timesteps:
        raise ValueError(
            f"logits have {logits.shape[1]} columns but the metric was built for num_timesteps={num_timesteps}"
        )


def _require_positive(num_timesteps: int) -> int:
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}")
    return num_timesteps
