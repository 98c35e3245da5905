"""Files of what a comparison needs of a data set, in place of the data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tag_lightning.files import replacing

_T = TypeVar("_T")
# What metrics found in the data, by class, see `SampleMetric.findings`.
Findings = dict[str, dict[str, Any]]


def write_statistics(
    path: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], findings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write a safetensors file, the same bytes for the same content.

    Args:
        path: The file.
        settings: What JSON can hold.
        tensors: By name.
        findings: Of metrics.

    Raises:
        OSError: If the folder cannot be written.
    """
    packed, numbers = dict(tensors), {}
    for metric, found in findings.items():
        packed |= {f"{metric}.{name}": value for name, value in found.items() if isinstance(value, Tensor)}
        numbers[metric] = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    with replacing(path) as temporary:
        # One entry, since safetensors does not keep the order of several.
        save_file(packed, temporary, {"statistics": json.dumps({**settings, "findings": numbers})})


def read_statistics(path: Path, kind: str, build: Callable[[dict[str, Any], dict[str, Tensor], Findings], _T]) -> _T:
    """Read what ``write_statistics`` wrote.

    Args:
        path: The file.
        kind: Kind of data, for messages.
        build: Makes the statistics from settings, tensors and findings.

    Raises:
        ValueError: If the file is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {})["statistics"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = settings.pop("findings")
        return build(settings, tensors, {name: found | _named(tensors, name) for name, found in numbers.items()})
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no statistics of {kind}, or is damaged; copy it again, or write it with "
            "python -m benchmarks.data_statistics"
        ) from error


def _named(tensors: Mapping[str, Tensor], metric: str) -> dict[str, Tensor]:
    prefix = f"{metric}."
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
