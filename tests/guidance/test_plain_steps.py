"""How much of our code a guided step runs through: what a reader has to follow, and Python's part of its time."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import tag_lightning
from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, Sampler
from tag_lightning.guidance import DPS, Condition, TemporalAlignment
from tag_lightning.pretrained import load_pretrained

PACKAGE = Path(tag_lightning.__file__).resolve().parent
COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}


class Calls:
    """Profile function for the Python calls into the package from the entry of ``Sampler._reverse`` to its return.

    Without networks and comprehensions. What dataclasses and named tuples generate, and ``abc``, lie in no file of the
    package.
    """

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self._inside = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code is Sampler._reverse.__code__:
            self.made, self._inside = [], True
        path = Path(code.co_filename)
        ours = path.is_relative_to(PACKAGE) and "networks" not in path.relative_to(PACKAGE).parts
        if event == "call" and self._inside and ours and code.co_name not in COMPREHENSIONS:
            self.made.append((code.co_filename, code.co_qualname))
        if event == "return" and code is Sampler._reverse.__code__:
            self._inside = False


def test_a_step_of_dps_and_tag_takes_few_calls() -> None:
    """The last step of digits by ``sys.setprofile``, see ``Calls``; docs/architecture.md has the numbers."""
    network, schedule, *_ = load_pretrained("digits/denoiser")
    assert schedule is not None
    guide = load_pretrained("digits/guide").network
    condition = Condition(guide, torch.tensor([3, 5]))
    guidance = [TemporalAlignment(load_pretrained("digits/time_predictor").network), DPS(condition)]
    sampler = Sampler(Denoiser(network, schedule, "epsilon"), DDIM(eta=0.0), 2, guidance)
    calls, before = Calls(), sys.getprofile()
    sys.setprofile(calls)
    try:
        sampler.sample(ImageSpace((3, 16, 16), range(2)), 0)
    finally:
        sys.setprofile(before)
    named = "\n".join(f"{Path(file).name}: {name}" for file, name in calls.made)
    assert len(calls.made) <= 40, named
    assert len({file for file, _ in calls.made}) <= 11, named
