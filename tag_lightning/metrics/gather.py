"""Rows of numbers, one a sample, brought together from all processes in the order of the samples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowsByIndex(Metric):
    """Gathers named quantities of samples; ``compute`` is the same on every process, whoever made which sample.

    A metric evaluated on its result is therefore free of the number of processes and of the order of sums.
    A process may have made no sample at all. All must call ``compute``. Under NCCL move it to the GPU first,
    ``RowsByIndex(...).to(device)``; rows follow it there.

    Args:
        columns: Name and width of each quantity, such as ``{"features": 64, "gaps": 50, "correct": 1}``.
        dtype: Type of the rows. The default holds any float32 and any integer up to 2^53 exactly.
        **kwargs: Passed to ``torchmetrics.Metric``.

    Raises:
        ValueError: If there is no column, a width below 1, or a column named ``index``.
    """

    full_state_update = False
    indices: list[Tensor]
    rows: list[Tensor]

    def __init__(self, columns: Mapping[str, int], dtype: torch.dtype = torch.float64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not columns or min(columns.values()) < 1 or "index" in columns:
            raise ValueError(
                f"columns must name at least one quantity of width 1 or more, and none 'index', got {dict(columns)}"
            )
        self.columns = dict(columns)
        self.row_dtype = dtype
        self.add_state("indices", [], dist_reduce_fx="cat")
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, index: Tensor, **quantities: Tensor) -> None:
        """Add samples.

        Args:
            index: Global index of each sample, integers ``[n]``.
            **quantities: Every column once, each ``[n, width]``, or ``[n]`` for width 1.

        Raises:
            ValueError: If a column is missing, unknown, or of another shape than declared.
        """
        if quantities.keys() != self.columns.keys():
            raise ValueError(f"expected the columns {sorted(self.columns)}, got {sorted(quantities)}")
        if index.ndim != 1 or index.is_floating_point():
            raise ValueError(f"index must be integers of shape [n], got {list(index.shape)} of {index.dtype}")
        parts = []
        for name, width in self.columns.items():
            part = quantities[name]
            if part.shape != (len(index), width) and (width > 1 or part.shape != (len(index),)):
                raise ValueError(f"column {name!r} must have shape [{len(index)}, {width}], got {list(part.shape)}")
            parts.append(part.detach().reshape(len(index), width).to(self.device, self.row_dtype))
        self.indices.append(index.to(self.device, torch.int64))
        self.rows.append(torch.cat(parts, dim=1))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all processes; called by ``compute``."""
        # A process without rows would be gathered as a float vector, which breaks the others' matrices.
        if not self.rows:
            self.indices.append(torch.empty(0, dtype=torch.int64, device=self.device))
            self.rows.append(torch.empty(0, sum(self.columns.values()), dtype=self.row_dtype, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """Every column ``[N, width]`` and ``index [N]``, sorted by index, the samples of all processes together.

        Raises:
            ValueError: If two samples have the same index.
        """
        index = _joined(self.indices, torch.empty(0, dtype=torch.int64, device=self.device))
        rows = _joined(self.rows, torch.empty(0, sum(self.columns.values()), dtype=self.row_dtype, device=self.device))
        index, order = index.sort()
        repeated = index[1:][index[1:] == index[:-1]].unique()
        if len(repeated):
            raise ValueError(
                f"{len(repeated)} samples were given more than once, index {repeated[:5].tolist()} first; "
                "give each sample to one process and leave padding out"
            )
        parts = rows[order].split(list(self.columns.values()), dim=1)
        return {**dict(zip(self.columns, parts, strict=True)), "index": index}

    def _wrap_compute(self, compute: Callable) -> Callable:
        synchronised = super()._wrap_compute(compute)

        # torchmetrics squeezes results of one element, which would change the shapes where there is one sample.
        @functools.wraps(compute)
        def in_shape() -> dict[str, Tensor]:
            shapes = {name: (-1, width) for name, width in self.columns.items()}
            return {name: rows.reshape(shapes.get(name, (-1,))) for name, rows in synchronised().items()}

        return in_shape


def _joined(state: Tensor | list[Tensor], empty: Tensor) -> Tensor:
    # torchmetrics hands over one tensor after a sync and a list without one.
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else empty
