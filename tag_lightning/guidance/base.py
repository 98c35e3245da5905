"""What every guidance is made of.

``Guidance`` and its hooks are part of the reverse loop's contract and are defined beside it, in
``tag_lightning.diffusion.hooks``; here are the tools that several guidances share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor

from tag_lightning.diffusion import Guidance
from tag_lightning.guidance.conditions import Condition, JointCondition, named_condition

__all__ = ["ConditionedGuidance", "Guidance", "per_sample"]


class ConditionedGuidance(Guidance):
    """Guidance towards samples that satisfy a condition.

    Args:
        condition: What the clean sample should satisfy; or the name of one of the run's conditions, or several
            names, whose log-likelihoods are summed. None takes all of the run (see ``bind``).
    """

    resources = ("condition",)

    def __init__(self, condition: Condition | JointCondition | str | Sequence[str] | None = None) -> None:
        self.condition = condition

    def bind(self, **resources: Any) -> Self:
        """As ``Guidance.bind``; names of conditions are looked up in the resource ``conditions``.

        Raises:
            ValueError: If the run has no condition of that name.
        """
        bound = super().bind(**resources)
        available: Mapping[str, Condition] = resources.get("conditions", {})
        if bound.condition is None and available:
            bound.condition = list(available)
        if isinstance(bound.condition, str | list | tuple):
            names = [bound.condition] if isinstance(bound.condition, str) else bound.condition
            bound.condition = named_condition(names, available)
        return bound

    def log_likelihood(self, x0: Tensor, **inputs: Tensor) -> Tensor:
        """``log p(c | x0)`` up to a constant, ``[B]``, for clean samples ``x0 [B, ...]``.

        Raises:
            ValueError: If the condition is still open, or only a name.
        """
        self.require_complete()
        if not isinstance(self.condition, Condition | JointCondition):
            raise ValueError(f"{type(self).__name__} knows only the name of its condition, {self.condition!r}; bind it")
        return self.condition.log_likelihood(x0, **inputs)


def per_sample(values: Tensor | float, like: Tensor) -> Tensor | float:
    """``values [B]`` shaped to multiply ``like [B, ...]``; a number stays as it is."""
    if isinstance(values, Tensor) and values.ndim == 1:
        return values.reshape(-1, *(1,) * (like.ndim - 1)).to(like)
    return values
