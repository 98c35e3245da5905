"""Objects that remember how they were constructed, so that they can be made again; checks of numbers and devices."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Self, SupportsFloat, SupportsIndex

import torch

_GIVEN = "_constructor_arguments"
_NUMBERS: dict[str, tuple[Any, str]] = {
    "float": (SupportsFloat, "a number"),
    "float | None": (SupportsFloat | None, "a number or None"),
    "int": (SupportsIndex, "a whole number"),
    "int | None": (SupportsIndex | None, "a whole number or None"),
}


def require_count(name: str, value: Any, least: int) -> None:
    """Check that an argument is a whole number of at least ``least``.

    Raises:
        ValueError: Names the argument.
    """
    if not isinstance(value, SupportsIndex):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_non_negative(name: str, value: float) -> float:
    """``value``, if it is a finite number of at least 0.

    Raises:
        ValueError: Names the argument.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
    return value


def require_device(device: torch.device | str) -> torch.device:
    """The device, if tensors can be made on it.

    Raises:
        ValueError: If PyTorch does not know it, or finds none here.
    """
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(f"device must be one that PyTorch finds here, such as cpu, got {device!r}") from error


class Rebuildable:
    """Remembers the arguments of its constructor, whichever subclass it belongs to; copies keep them.

    Raises:
        ValueError: If an argument annotated as ``float`` or ``int`` is none; names it.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments given to the constructor, by name; those left at their defaults are missing."""
        args, kwargs = vars(self).get(_GIVEN, ((), {}))
        given = dict(inspect.signature(type(self)).bind(*args, **kwargs).arguments)
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        return given

    def rebuilt(self, **changed: Any) -> Self:
        """A new object, constructed with the same arguments except for these.

        Raises:
            ValueError: If the constructor refuses a value.
        """
        return type(self)(**(self.arguments | changed))

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """Parameters of the constructor by name; ``**interval`` stands for those of the base class."""
        own = dict(inspect.signature(cls).parameters)
        found = {name: one for name, one in own.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}
        base = next(
            each for each in reversed(cls.__mro__) if issubclass(each, Rebuildable) and "__init__" in vars(each)
        )
        if base is not cls and len(found) < len(own):
            found |= {name: one for name, one in base.parameters().items() if name not in found}
        return found


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    parameters = inspect.signature(init).parameters.values()
    # Annotations are text in modules that postpone them.
    annotated = {one.name: getattr(one.annotation, "__name__", str(one.annotation)) for one in parameters}
    names = list(annotated)

    @functools.wraps(init)
    def remembering(self: Any, *args: Any, **kwargs: Any) -> None:
        # The constructors of base classes run later and must not take the place of the outermost one.
        vars(self).setdefault(_GIVEN, (args, kwargs))
        for name, value in (*zip(names[1:], args, strict=False), *kwargs.items()):
            kind, wanted = _NUMBERS.get(annotated.get(name, ""), (object, ""))
            if not isinstance(value, kind):
                raise ValueError(f"{name} must be {wanted}, got {value!r}")
        init(self, *args, **kwargs)

    return remembering
