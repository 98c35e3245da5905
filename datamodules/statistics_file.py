"""Files with the statistics of a data set that a comparison needs, in place of the data set."""

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
# Of metrics, by class name; see `SampleMetric.reference_state`.
ReferenceStates = dict[str, dict[str, Any]]


def write_statistics(
    path: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], states: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write a safetensors file, the same bytes for the same content.

    Args:
        path: The file.
        settings: JSON values by name.
        tensors: Tensors by name.
        states: State of each metric by class name, see ``SampleMetric.reference_state``.

    Raises:
        OSError: If the folder cannot be written.
    """
    packed, numbers = dict(tensors), {}
    for metric, found in states.items():
        packed |= {f"{metric}.{name}": value for name, value in found.items() if isinstance(value, Tensor)}
        numbers[metric] = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    with replacing(path) as temporary:
        # One entry, since safetensors does not keep the order of several.
        save_file(packed, temporary, {"statistics": json.dumps({**settings, "reference_states": numbers})})
        temporary.chmod(0o644)  # safetensors leaves its files readable by the owner only


def read_statistics(
    path: Path, kind: str, build: Callable[[dict[str, Any], dict[str, Tensor], ReferenceStates], _T]
) -> _T:
    """Read what ``write_statistics`` wrote.

    Args:
        path: The file.
        kind: Kind of data, for messages.
        build: Makes the statistics from settings, tensors and states of metrics.

    Raises:
        ValueError: If the file is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {})["statistics"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = settings.pop("reference_states")
        return build(settings, tensors, {name: found | _named(tensors, name) for name, found in numbers.items()})
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no statistics of {kind}, or is damaged; copy it again, or write it with "
            "python -m benchmarks.data_statistics"
        ) from error


def _named(tensors: Mapping[str, Tensor], metric: str) -> dict[str, Tensor]:
    prefix = f"{metric}."
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
