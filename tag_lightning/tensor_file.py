"""Files of tensors, safetensors or written by ``torch.save``, read without executing anything in them."""

from __future__ import annotations

import pickle
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_BROKEN = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    SafetensorError,
)


def load_values(path: Path, kind: str) -> Any:
    """Read tensors and plain values.

    Args:
        path: The file; safetensors if it is named so.
        kind: The expected content in errors, as in ``checkpoint``.

    Raises:
        ValueError: If it is truncated, something else, or would execute code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than weights and plain values, or is not a {kind}; refused") from error
    except _BROKEN as error:
        raise ValueError(f"{path} is not a readable {kind} (truncated?): {reason(error)}; copy it again") from error


def load_weights(path: Path, kind: str) -> dict[str, Tensor]:
    """Read a state dict, tensors by name, which may be the entry ``state_dict`` of the file.

    Raises:
        ValueError: See ``load_values``; also if there is anything else in it.
    """
    weights = load_values(path, kind)
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path} is not a {kind}: expected tensors by name, got {type(weights).__name__}")
    other = next((name for name, value in weights.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise ValueError(f"{path} is not a {kind}: its entry {other!r} must be a tensor")
    return {str(name): value for name, value in weights.items()}


def require_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Check that no tensor is NaN or infinite.

    Args:
        weights: Tensors by name.
        source: Name of the file or folder in the error.

    Raises:
        ValueError: Names the first such tensor.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(
                f"the weights in {source} have NaN or infinity in {name}: the training diverged or the file is "
                "damaged; take an earlier checkpoint or copy it again"
            )


def reason(error: Exception) -> str:
    """Another library's message in one line, shortened; the type of an error without a message."""
    if isinstance(error, KeyError) and error.args:
        return f"it lacks {error.args[0]}"
    return textwrap.shorten(str(error), 400, placeholder=" ...") or type(error).__name__
