"""Objects that remember how they were constructed, so that they can be made again with one argument changed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Self

_GIVEN = "_constructor_arguments"


class Rebuildable:
    """Remembers the arguments of its constructor, whichever subclass it belongs to; copies keep them."""

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
    @functools.wraps(init)
    def remembering(self: Any, *args: Any, **kwargs: Any) -> None:
        # The constructors of base classes run later and must not take the place of the outermost one.
        vars(self).setdefault(_GIVEN, (args, kwargs))
        init(self, *args, **kwargs)

    return remembering
