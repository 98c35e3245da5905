"""Ways of sampling, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

from tag_lightning.guidance import DPS, Corruption, Guidance, TemporalAlignment


@dataclass
class Arm:
    """One way of sampling.

    Attributes:
        guidance: Hooks in the order they run. What an entry leaves open (its predictor, its condition) is
            taken from the run.
        num_steps: Reverse steps; None takes those of ``sampling.num_steps``.
        recurrence: Times each step is taken.
    """

    guidance: list[Guidance] = field(default_factory=list)
    num_steps: int | None = None
    recurrence: int = 1


def default_arms(sigma: float, scale: float, with_predictor: bool, with_guide: bool) -> dict[str, Arm]:
    """The arms that show what TAG changes, as far as the run has what they need.

    Args:
        sigma: Standard deviation of the corruption.
        scale: Guidance scale of DPS.
        with_predictor: Whether there is a time predictor to correct with.
        with_guide: Whether there is a guide.
    """
    arms = {"unguided": Arm(), "corruption": Arm([Corruption(sigma)])}
    if with_predictor:
        arms["corruption+tag"] = Arm([Corruption(sigma), TemporalAlignment()])
    if with_guide:
        arms["dps"] = Arm([DPS(scale=scale)])
    if with_guide and with_predictor:
        arms["dps+tag"] = Arm([TemporalAlignment(), DPS(scale=scale)])
    return arms
