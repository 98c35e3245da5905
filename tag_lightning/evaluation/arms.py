"""Arms: ways of sampling to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tag_lightning.diffusion import Denoiser, Recurrence
from tag_lightning.guidance import (
    DPS,
    AdaptiveLengthSteps,
    Corruption,
    FixedLengthSteps,
    Guidance,
    Retiming,
    Strength,
    TemporalAlignment,
)


class SweepPoint(NamedTuple):
    """The place of an arm on the curve that a sweep draws.

    Attributes:
        curve: Name of the arm that was swept.
        parameter: The parameter that changes along the curve.
        value: Its value in this arm.
        guided: Its samples were asked for something, so that their alignment says something.
        asked: Names of the conditions that they were asked for, joined by ", "; empty for all of the run's.
    """

    curve: str
    parameter: str
    value: float
    guided: bool = True
    asked: str = ""


@dataclass
class Arm:
    """One way of sampling.

    Attributes:
        guidance: Guidance, in the order it runs. A predictor or condition that an entry leaves open is taken from the
            comparison.
        num_steps: Reverse steps; None takes those of the comparison.
        recurrence: Number of times each step is taken, or a range of timesteps with it; None takes the recurrence
            that a guidance is published with, or else 1.
        predictor: Time predictor that corrects in this arm: a shipped network's name, a folder or a checkpoint. None
            takes that of the comparison.
        sweep: ``num_steps`` or a parameter of a guidance in this arm, and its values: one arm per value, see
            ``evaluation.sweep``.
        point: The place of this arm on the curve of a sweep; None outside of sweeps.
        best_of: Candidates drawn for each sample, at least 1; the guide keeps the likeliest under the conditions of the
            task. Without guidance this is rejection sampling from the unguided distribution at ``best_of`` times its
            cost, the baseline that any guidance should beat at equal cost.
        conditional: Tell a conditional denoiser what the task asks of each sample. None tells it only if a guidance of
            the arm needs the condition, or if the denoiser cannot do without, so that ``unguided`` and ``dps`` mean the
            same with every denoiser.

    Raises:
        ValueError: If an attribute is of another type.
    """

    guidance: list[Guidance] = field(default_factory=list)
    num_steps: int | None = None
    recurrence: int | Recurrence | None = None
    sweep: dict[str, list[int | float]] | None = None
    best_of: int = 1
    predictor: str | None = None
    conditional: bool | None = None
    point: SweepPoint | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        entries = self.guidance if isinstance(self.guidance, list | tuple) else [None]
        if not all(isinstance(entry, Guidance) for entry in entries):
            raise ValueError(f"guidance must be a list of Guidance, as in [DPS()], got {self.guidance!r}")
        for name, kinds, expected in (
            ("num_steps", int | None, "a whole number or None"),
            ("recurrence", int | Recurrence | None, "a whole number, a Recurrence or None"),
            ("best_of", int, "a whole number"),
            ("predictor", str | None, "the name, folder or checkpoint of a time predictor, or None"),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"{name} must be {expected}, got {value!r}")
        if self.conditional is not None and not isinstance(self.conditional, bool):
            raise ValueError(f"conditional must be true, false or None, got {self.conditional!r}")

    def tells_condition(self, denoiser: Denoiser) -> bool:
        """True if this denoiser is told the condition in this arm.

        Raises:
            ValueError: If ``conditional`` contradicts the guidance or the denoiser.
        """
        needing = [
            type(entry).__name__ for entry in self.guidance if entry.needs_condition or entry.needs_null_condition
        ]
        if self.conditional is None:
            return bool(needing) or (denoiser.conditioning is not None and not denoiser.has_null_condition)
        if self.conditional and denoiser.conditioning is None:
            raise ValueError("conditional is true, but the denoiser is unconditional; take digits/conditional_denoiser")
        if needing and not self.conditional:
            raise ValueError(f"conditional is false, but {needing[0]} strengthens the condition; leave conditional out")
        return self.conditional


def default_arms(
    sigma: float,
    scale: float,
    kappa: float | None,
    strength: float | Strength,
    with_predictor: bool = True,
    with_noise_level: bool = True,
    with_guide: bool = True,
    strong_scale: float | None = None,
) -> dict[str, Arm]:
    """The arms that show what TAG and retiming repair, as far as the needed networks are there.

    A disturbed process, plain guidance, guidance that is far too strong, and guidance in short steps, which is the form
    to use; each by itself, with TAG and with retiming.

    Args:
        sigma: Standard deviation of the corruption.
        scale: Guidance scale of plain DPS.
        kappa: Length of the short steps, as a fraction of the noise that they leave; see ``FixedLengthSteps``. None
            lets them find it, see ``AdaptiveLengthSteps``.
        strength: Strength of TAG.
        with_predictor: There is a time predictor to correct with.
        with_noise_level: There is a regressor of the noise level to retime by.
        with_guide: There is a guide.
        strong_scale: Guidance scale of the arm ``strong dps``, which shows what can be repaired; None leaves it out.
    """
    processes: dict[str, Guidance] = {"corruption": Corruption(sigma)}
    if with_guide:
        processes["dps"] = DPS(scale=scale)
        if strong_scale is not None:
            processes["strong dps"] = DPS(scale=strong_scale)
        steps = AdaptiveLengthSteps(DPS()) if kappa is None else FixedLengthSteps(DPS(), kappa)
        processes["adaptive length" if kappa is None else "fixed length"] = steps
    tag, retiming = TemporalAlignment(strength=strength), Retiming()
    arms = {"unguided": Arm()}
    for name, process in processes.items():
        arms[name] = Arm([process])
        # A disturbance comes before what repairs it, guidance after it.
        first = isinstance(process, Corruption)
        if with_predictor:
            arms[f"{name}+tag"] = Arm([process, tag] if first else [tag, process])
        if with_noise_level:
            arms[f"{name}+retiming"] = Arm([process, retiming] if first else [retiming, process])
    return arms


def require_arms(arms: Mapping[str, Arm]) -> None:
    """Check that arms are arms, can be told apart and can name files, before anything is drawn.

    Raises:
        ValueError: If ``arms`` is not such a mapping or empty, a name is empty, starts with a dot, or holds a slash
            or backslash, or an arm draws no candidate.
    """
    if not isinstance(arms, Mapping) or not all(isinstance(arm, Arm) for arm in arms.values()):
        raise ValueError("arms must be a dictionary of Arm by name, as in {'dps': Arm([DPS()])}")
    names = list(arms)
    if not names:
        raise ValueError("arms is empty; give at least one arm, or leave it out for the default ones")
    for name in names:
        if not name or name.startswith(".") or "/" in name or "\\" in name:
            raise ValueError(
                f"arms has an arm named {name!r}, which also names its files; "
                "use no slash, no backslash, no dot at the start, and at least one character"
            )
    for name, arm in arms.items():
        if arm.best_of < 1:
            raise ValueError(f"arm {name}: best_of must be at least 1, got {arm.best_of}")
