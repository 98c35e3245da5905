"""Rows of numbers per sample, gathered from all processes in the order of the samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed import is_available, is_initialized
from torchmetrics.utilities.distributed import gather_all_tensors


class RowsByIndex:
    """Named quantities of samples; ``compute`` returns the same on every process.

    A metric evaluated on its result is therefore free of the number of processes and of the order of sums.
    A process may have made no sample at all, but all of them must call ``compute``.

    Args:
        columns: Name and width of each quantity, such as ``{"features": 64, "gaps": 50, "correct": 1}``.
        dtype: Type of the rows. The default holds any float32 and any integer up to 2^53 exactly.
        device: Device of the rows; NCCL gathers from GPUs only.

    Raises:
        ValueError: If there is no column, a width below 1, or a column named ``index``.
    """

    def __init__(
        self,
        columns: Mapping[str, int],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if not columns or min(columns.values()) < 1 or "index" in columns:
            raise ValueError(
                f"columns must name at least one quantity of width 1 or more, and none 'index', got {dict(columns)}"
            )
        self.columns = dict(columns)
        # Beginning with empty parts spares a process without samples a case of its own.
        self._indices = [torch.empty(0, dtype=torch.int64, device=device)]
        self._rows = [torch.empty(0, sum(columns.values()), dtype=dtype, device=device)]

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
            parts.append(part.detach().reshape(len(index), width).to(self._rows[0]))
        self._indices.append(index.to(self._indices[0]))
        self._rows.append(torch.cat(parts, dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Every column ``[N, width]`` and ``index [N]``, sorted by index, the samples of all processes together.

        Raises:
            ValueError: If two samples have the same index.
        """
        index, order = _gathered(self._indices).sort()
        rows = _gathered(self._rows)[order]
        repeated = index[1:][index[1:] == index[:-1]].unique()
        if len(repeated):
            raise ValueError(
                f"{len(repeated)} samples were given more than once, index {repeated[:5].tolist()} first; "
                "give each sample to one process and leave padding out"
            )
        return {**dict(zip(self.columns, rows.split(list(self.columns.values()), dim=1), strict=True)), "index": index}


def _gathered(parts: list[Tensor]) -> Tensor:
    joined = torch.cat(parts)
    return torch.cat(gather_all_tensors(joined)) if is_available() and is_initialized() else joined
