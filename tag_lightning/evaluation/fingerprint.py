"""Fingerprints of settings and networks: equal in every process for equal content, or refused."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import ReferenceType

import numpy as np
import torch
from torch import Tensor, nn

import tag_lightning
from tag_lightning.content_digest import content_digest
from tag_lightning.evaluation.sharding import is_flattened, sharding_attributes, shards, unsharded_class, whole_tensor

# Torch's bookkeeping of a module. Its hooks are described by their functions; their keys count up within a process.
_BOOKKEEPING = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# diffusers lists these from a set, in an order that differs from process to process.
_UNORDERED = "_use_default_values"

# Compiled packages that samples or rows may depend on, beside torch.
_PACKAGES = ("numpy", "torchvision", "diffusers", "rdkit", "tblite")


class IndescribableError(TypeError):
    """An object has no description that another process would find again."""


class Fingerprints:
    """Fingerprints of objects by their content: class, source code and attributes, down to numbers and tensors.

    Equal fingerprints mean equal content. The reverse does not hold: state that changes with use, or source code edited
    between two runs, gives another fingerprint, and objects without a stable description are refused. A network that
    FSDP's ``fully_shard`` spreads over processes has the fingerprint of the whole one; all of them must ask for it.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes | None]] = {}
        self._open: list[int] = []

    def remember(self, *values: Any) -> None:
        """Describe these objects once only, such as networks, whose content does not change from now on."""
        for value in values:
            self._known.setdefault(id(value), (value, None))

    def of(self, *values: Any) -> str:
        """The fingerprint of the values in this order, 64 hexadecimal digits.

        Raises:
            IndescribableError: If one of them, or something in them, is a lambda, a function or class made inside of
                another function, or an object of compiled code that shows no attributes; names it.
        """
        return self._digest(values).hex()

    def _digest(self, value: Any) -> bytes:
        if id(value) in self._open:  # a reference to something around it
            return content_digest(b"within", str(len(self._open) - self._open.index(id(value))).encode())
        known = self._known.get(id(value))
        if known is not None and known[1] is not None:
            return known[1]
        self._open.append(id(value))
        try:
            digest = content_digest(*self._parts(value))
        finally:
            self._open.pop()
        if known is not None:
            self._known[id(value)] = (value, digest)
        return digest

    def _parts(self, value: Any) -> Iterator[bytes]:
        if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
            yield repr(value).encode()
            if isinstance(value, enum.Enum):
                yield self._digest(type(value))
            return
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            yield _code_digest(value)
            return
        yield _code_digest(unsharded_class(value))
        if isinstance(value, Tensor | np.ndarray | np.generic):
            yield from _array_parts(value)
        elif isinstance(value, Path | torch.dtype | torch.device | enum.Enum):
            yield str(value).encode()
        elif isinstance(value, MethodType | functools.partial):
            own = (value.__self__, value.__func__) if isinstance(value, MethodType) else value.__reduce__()[2][:3]
            yield from map(self._digest, own)
        elif isinstance(value, ReferenceType):
            yield self._digest(value())
        else:
            yield from self._content(value)
            if isinstance(value, Mapping | list | tuple | set | frozenset):
                yield from self._items(getattr(value, "__dict__", {}))

    def _content(self, value: Any) -> Iterator[bytes]:
        """The entries of a container, or the attributes of an object."""
        if isinstance(value, Mapping):
            yield from self._items(value)
        elif isinstance(value, list | tuple | range):
            yield from map(self._digest, value)
        elif isinstance(value, set | frozenset):
            yield from sorted(map(self._digest, value))
        elif isinstance(value, nn.Module):
            if is_flattened(value):
                raise IndescribableError(
                    "a network of FullyShardedDataParallel, of whose weights each process has a part; use fully_shard"
                )
            own = vars(value)
            left_out = _BOOKKEEPING | sharding_attributes(value)
            yield from self._items({name: one for name, one in own.items() if name not in left_out})
            yield from map(self._digest, (own["_parameters"], own["_buffers"], own["_modules"]))
            hooks = [hook for name in _HOOKS for hook in own[name].values()]
            yield from (self._digest(hook) for hook in hooks if not shards(hook))
        else:
            yield from self._items(_attributes(value))

    def _items(self, items: Mapping[Any, Any]) -> Iterator[bytes]:
        for key, value in items.items():
            if key != _UNORDERED:
                yield self._digest(key) + self._digest(value)


def environment(device: torch.device) -> dict[str, Any]:
    """Everything outside of objects that the last bits of a result depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return {
        "device": (device.type, name),
        "precision": (torch.get_float32_matmul_precision(), torch.get_default_dtype(), autocast),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "package": _package_digest(),
        "versions": [platform.python_version(), torch.__version__, *map(_version, _PACKAGES)],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _attributes(value: Any) -> dict[str, Any]:
    kind = type(value)
    slots = [name for each in kind.__mro__ for name in _slots(each) if name not in ("__dict__", "__weakref__")]
    if not hasattr(value, "__dict__") and not slots:
        raise IndescribableError(f"an object of class {kind.__qualname__} shows no attributes")
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    cached = [name for name in found if isinstance(getattr(kind, name, None), functools.cached_property)]
    return {name: one for name, one in found.items() if name not in cached}


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _array_parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_meta:
            raise IndescribableError("a tensor that is sparse or has no data")
        value = whole_tensor(value)
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        # A clone, since a tensor of one element counts as contiguous whatever its stride.
        flat = value.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
        value = flat.view(torch.uint8).numpy()
    value = np.ascontiguousarray(value)
    if value.dtype.hasobject:
        raise IndescribableError("an array of objects")
    yield f"{value.dtype} {value.shape}".encode()
    yield hashlib.sha256(value.data).digest()


@functools.cache
def _code_digest(value: type | Callable[..., Any]) -> bytes:
    """Name and source code of a class, its bases included, or of a function."""
    name, module = value.__qualname__, getattr(value, "__module__", None)
    if "<" in name:
        kind = "class" if isinstance(value, type) else "function"
        raise IndescribableError(f"{name} is a {kind} without a name that another process would find")
    owner = getattr(value, "__self__", None)
    if isinstance(value, BuiltinFunctionType) and not (owner is None or inspect.ismodule(owner)):
        raise IndescribableError(f"{name} is a method of compiled code")
    bases = value.__mro__ if isinstance(value, type) else (value,)
    sources = [_source_digest(getattr(each, "__module__", None) or "builtins") for each in bases]
    return content_digest(f"{module}.{name}".encode(), *sources)


@functools.cache
def _source_digest(module: str) -> bytes:
    if module.partition(".")[0] == tag_lightning.__name__:
        return _package_digest()
    loaded = sys.modules.get(module)
    if loaded is None:
        raise IndescribableError(f"the module {module} is not there any more")
    path = getattr(loaded, "__file__", None)
    if path is None and module == "__main__":
        raise IndescribableError("code of an interactive session has no file")
    # Compiled modules and those without a file belong to Python or a package, whose version stands for them.
    return hashlib.sha256(Path(path).read_bytes()).digest() if path is not None and path.endswith(".py") else b""


@functools.cache
def _package_digest() -> bytes:
    """The digest of this package's source code, which may be edited without a new version."""
    total = hashlib.sha256()
    for path in sorted(Path(tag_lightning.__file__).parent.rglob("*.py")):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.digest()
