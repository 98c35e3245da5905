"""Clipping at what is usual, against the rule worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tag_lightning.callbacks import AdaptiveGradientClipping


def step(callback: AdaptiveGradientClipping, norm: float) -> float:
    """The norm that is left of a gradient of that norm."""
    module = nn.Linear(3, 1, bias=False)
    module.weight.grad = torch.tensor([[norm, 0.0, 0.0]])
    nothing: Any = SimpleNamespace()
    callback.on_before_optimizer_step(nothing, module, nothing)  # type: ignore[arg-type]
    return float(module.weight.grad.norm())


def test_the_bound_follows_the_norms_that_passed() -> None:
    callback = AdaptiveGradientClipping(window=4, first=10.0)
    kept = [10.0]
    for norm in (1.0, 2.0, 50.0, 3.0, 2.5, 100.0, 0.5):
        bound = 1.5 * np.mean(kept) + 2 * np.std(kept)
        assert callback.bound == pytest.approx(bound)
        assert step(callback, norm) == pytest.approx(min(norm, bound), rel=1e-5)
        kept = [*kept, min(norm, bound)][-4:]


def test_the_first_gradients_pass_as_in_the_published_code() -> None:
    assert step(AdaptiveGradientClipping(), 4000.0) == pytest.approx(4000)


def test_a_resumed_run_clips_as_if_it_had_gone_on() -> None:
    first, second = AdaptiveGradientClipping(), AdaptiveGradientClipping()
    for norm in (1.0, 5.0, 2.0):
        step(first, norm)
    second.load_state_dict(first.state_dict())
    assert second.bound == first.bound


@pytest.mark.parametrize(("window", "first"), [(1, 1.0), (5, 0.0)])
def test_impossible_settings_are_refused(window: int, first: float) -> None:
    with pytest.raises(ValueError, match="window must be at least 2"):
        AdaptiveGradientClipping(window, first)
